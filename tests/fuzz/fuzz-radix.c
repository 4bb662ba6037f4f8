/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzzing the radix against an array
 *
 * The input: a byte of how, one of how many nodes there are, then operations.  Built
 * for libFuzzer, or, without it, with a main of its own that makes up inputs:
 *
 *	fuzz-radix [-runs=N] [-seed=N] [FILE...]
 */
#include <stdio.h>
#include <string.h>
#include "radix-model.h"

#define OP_BYTES 13

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void op_of(const uint8_t *data, struct model_op *ret_op)
{
	struct model_op op = {
		.kind = data[0], .where = data[1], .shape = data[2], .value = data[3],
	};

	memcpy(&op.start, data + 4, 3);
	memcpy(&op.n, data + 7, 3);
	memcpy(&op.to, data + 10, 3);
	*ret_op = op;
}

static void look(const char *why)
{
	if (!why)
		return;
	fprintf(stderr, "%s\n", why);
	abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_(model_freep) struct model *model = NULL;
	uint64_t steps = 0;

	if (size < 2)
		return 0;
	/* Few nodes are what is hard. */
	model = model_new(data[0], data[0] & 8 ? 20000 : data[1] % 32 + 1);
	if (!model)
		abort();
	data += 2;
	size -= 2;
	for (; size >= OP_BYTES && steps < 4000000; data += OP_BYTES, size -= OP_BYTES) {
		struct model_op op;

		op_of(data, &op);
		look(model_apply(model, &op, &steps));
	}
	if (size & 1)
		look(model_check(model));
	look(model_end(model));
	return 0;
}

#ifndef FUZZER

static uint64_t state;

static uint8_t rnd_byte(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint8_t)(state >> 24);
}

static int run_file(const char *name)
{
	static uint8_t input[1 << 20];
	FILE *f = fopen(name, "re");
	size_t n;

	if (!f) {
		perror(name);
		return 1;
	}
	n = fread(input, 1, sizeof(input), f);
	fclose(f);
	return LLVMFuzzerTestOneInput(input, n);
}

int main(int argc, char **argv)
{
	uint64_t runs = 1000, seed = 1;
	uint8_t input[2 + OP_BYTES * 40];
	bool files = false;

	for (int i = 1; i < argc; i++) {
		if (strncmp(argv[i], "-runs=", 6) == 0) {
			runs = strtoull(argv[i] + 6, NULL, 0);
		} else if (strncmp(argv[i], "-seed=", 6) == 0) {
			seed = strtoull(argv[i] + 6, NULL, 0);
		} else if (argv[i][0] != '-') {
			files = true;
			if (run_file(argv[i]))
				return 1;
		}
	}
	for (uint64_t i = 0; i < runs && !files; i++) {
		size_t n;

		/* Each of them can be made again by its own seed. */
		state = (seed + i) * 0x9e3779b97f4a7c15ULL | 1;
		n = 2 + rnd_byte() % 40 * OP_BYTES + rnd_byte() % 2;
		for (size_t j = 0; j < n; j++)
			input[j] = rnd_byte();
		LLVMFuzzerTestOneInput(input, n);
	}
	return 0;
}

#endif
