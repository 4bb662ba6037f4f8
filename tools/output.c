/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "output.h"

#define PROT_UNKNOWN	(~0U)

/* bits of MIRROR_FEAT_* that are not event types */
static const struct {
	uint64_t bit;
	const char *name;
} features_by_name[] = {
	{ MIRROR_FEAT_WP_ASYNC, "wp-async" },
	{ MIRROR_FEAT_PEEK, "peek" },
	{ MIRROR_FEAT_REMOVE_END, "remove-end" },
	{ MIRROR_FEAT_PROBE, "probe" },
	{ MIRROR_FEAT_KERNEL_FAULTS, "kernel-faults" },
	{ MIRROR_FEAT_EXEC, "exec" },
};

/* what the eye should catch: memory goes: red, contents: yellow, moves: cyan */
static const char * const colors[MIRROR_EVENT_TYPES] = {
	[MIRROR_EVENT_UNMAP] = "\033[31m",
	[MIRROR_EVENT_CLEAR] = "\033[33m",
	[MIRROR_EVENT_RELEASE] = "\033[35m",
	[MIRROR_EVENT_MIGRATE] = "\033[36m",
	[MIRROR_EVENT_REMAP] = "\033[36m",
	[MIRROR_EVENT_FORK] = "\033[32m",
	[MIRROR_EVENT_OVERFLOW] = "\033[1;31m",
};

static const char *or_unknown(const char *name)
{
	return name ? name : "unknown";
}

static const char *prot_to_string(char buf[static 8], uint32_t prot)
{
	if (prot == PROT_UNKNOWN)
		return "unknown";

	buf[0] = prot & PROT_READ ? 'r' : '-';
	buf[1] = prot & PROT_WRITE ? 'w' : '-';
	buf[2] = prot & PROT_EXEC ? 'x' : '-';
	buf[3] = 0;

	return buf;
}

static bool wants_color(int fd)
{
	const char *no_color = getenv("NO_COLOR");
	const char *term = getenv("TERM");

	if (no_color && *no_color)
		return false;
	if (term && !strcmp(term, "dumb"))
		return false;

	return isatty(fd);
}

int output_open(struct output *output, const char *path, int fd, bool json, bool phases)
{
	struct output o = OUTPUT_NULL;
	int copy, r;

	if (path && strcmp(path, "-")) {
		o.file = fopen(path, "we");
		if (!o.file)
			return -errno;
	} else {
		/* a stream of our own: stderr itself is not buffered, and not ours to close */
		copy = fcntl(path ? STDOUT_FILENO : fd, F_DUPFD_CLOEXEC, 3);
		if (copy < 0)
			return -errno;

		o.file = fdopen(copy, "w");
		if (!o.file) {
			r = -errno;
			close(copy);
			return r;
		}
	}

	setvbuf(o.file, NULL, _IOFBF, 64 * 1024);
	o.json = json;
	o.phases = phases;
	o.color = !json && wants_color(fileno(o.file));
	*output = o;

	return 0;
}

void output_close(struct output *output)
{
	if (!output->file)
		return;

	fclose(output->file);
	output->file = NULL;
}

int output_flush(struct output *output)
{
	if (!output->broken && (fflush(output->file) || ferror(output->file)))
		output->broken = true;

	return output->broken ? -EPIPE : 0;
}

static void json_argument(FILE *f, const struct mirror_event *e, pid_t child_pid)
{
	char prot[8], old[8];

	switch (e->type) {
	case MIRROR_EVENT_REMAP:
		fprintf(f, ",\"to\":\"0x%" PRIx64 "\"", (uint64_t)e->arg.remap.to);
		break;
	case MIRROR_EVENT_PROTECTION_VMA:
		fprintf(f, ",\"prot_new\":\"%s\",\"prot_old\":\"%s\"",
			prot_to_string(prot, e->arg.protection.prot_new),
			prot_to_string(old, e->arg.protection.prot_old));
		break;
	case MIRROR_EVENT_MIGRATE:
	case MIRROR_EVENT_EXCLUSIVE:
		fprintf(f, ",\"owner\":\"0x%" PRIx64 "\"", (uint64_t)e->arg.owner.cookie);
		break;
	case MIRROR_EVENT_FORK:
		fprintf(f, ",\"child\":%" PRIu32 ",\"child_pid\":%d", (uint32_t)e->arg.fork.target,
			(int)child_pid);
		break;
	case MIRROR_EVENT_FAULT:
		fprintf(f, ",\"address\":\"0x%" PRIx64 "\",\"prot\":\"%s\"",
			(uint64_t)e->arg.fault.address, prot_to_string(prot, e->arg.fault.prot));
		break;
	case MIRROR_EVENT_OVERFLOW:
		fprintf(f, ",\"lost\":%" PRIu64, (uint64_t)e->arg.overflow.lost);
		break;
	}
}

static void json_event(FILE *f, const struct mirror_event *e, pid_t pid, pid_t child_pid)
{
	fprintf(f, "{\"seq\":%" PRIu64 ",\"time_ns\":%" PRIu64, (uint64_t)e->seq,
		(uint64_t)e->time_ns);
	fprintf(f, ",\"target\":%" PRIu32 ",\"pid\":%d", (uint32_t)e->target, (int)pid);
	fprintf(f, ",\"event\":\"%s\"", or_unknown(mirror_event_type_to_string(e->type)));
	fprintf(f, ",\"cause\":\"%s\"", or_unknown(mirror_cause_to_string(e->cause)));
	fprintf(f, ",\"phase\":\"%s\"", or_unknown(mirror_event_phase_to_string(e->flags)));
	fprintf(f, ",\"start\":\"0x%" PRIx64 "\",\"end\":\"0x%" PRIx64 "\"", (uint64_t)e->start,
		(uint64_t)e->end);
	fprintf(f, ",\"source\":\"%s\"",
		or_unknown(mirror_source_to_string(MIRROR_EVENT_SOURCE(e->flags))));
	fprintf(f, ",\"guarantee\":\"%s\"",
		or_unknown(mirror_guarantee_to_string(MIRROR_EVENT_GUARANTEE(e->flags))));

	json_argument(f, e, child_pid);

	if (e->flags & MIRROR_EVENT_F_MERGED)
		fputs(",\"merged\":true", f);
	if (e->flags & MIRROR_EVENT_F_LAST)
		fputs(",\"last\":true", f);
	fputs("}\n", f);
}

static void human_argument(FILE *f, const struct mirror_event *e, pid_t child_pid)
{
	char new[8], old[8];

	switch (e->type) {
	case MIRROR_EVENT_REMAP:
		fprintf(f, "  -> %012" PRIx64, (uint64_t)e->arg.remap.to);
		break;
	case MIRROR_EVENT_PROTECTION_VMA:
		fprintf(f, "  %s -> %s", prot_to_string(old, e->arg.protection.prot_old),
			prot_to_string(new, e->arg.protection.prot_new));
		break;
	case MIRROR_EVENT_MIGRATE:
	case MIRROR_EVENT_EXCLUSIVE:
		if (e->arg.owner.cookie)
			fprintf(f, "  by 0x%" PRIx64, (uint64_t)e->arg.owner.cookie);
		break;
	case MIRROR_EVENT_FORK:
		if (child_pid > 0)
			fprintf(f, "  child %d", (int)child_pid);
		else if (e->arg.fork.target)
			fprintf(f, "  child #%" PRIu32, (uint32_t)e->arg.fork.target);
		else
			fputs("  child not followed", f);
		break;
	case MIRROR_EVENT_FAULT:
		fprintf(f, "  at %012" PRIx64 " %s", (uint64_t)e->arg.fault.address,
			prot_to_string(new, e->arg.fault.prot));
		break;
	case MIRROR_EVENT_OVERFLOW:
		fprintf(f, "  %" PRIu64 " lost", (uint64_t)e->arg.overflow.lost);
		break;
	}
}

static void human_event(const struct output *o, const struct mirror_event *e, pid_t pid,
			pid_t child_pid)
{
	const char *color = NULL;
	char range[40] = "", size[16];
	FILE *f = o->file;

	if (o->color && e->type < MIRROR_EVENT_TYPES)
		color = colors[e->type];

	if (pid > 0)
		fprintf(f, "%7d  ", (int)pid);
	else
		fprintf(f, "%7s  ", "-");

	/* colours outside the padding, so that columns stay columns */
	fprintf(f, "%s%-15s%s ", color ? color : "",
		or_unknown(mirror_event_type_to_string(e->type)), color ? "\033[0m" : "");
	if (o->phases)
		fprintf(f, "%-5s ", or_unknown(mirror_event_phase_to_string(e->flags)));

	/* a fork has no range */
	if (e->start < e->end)
		snprintf(range, sizeof(range), "%012" PRIx64 "-%012" PRIx64, (uint64_t)e->start,
			 (uint64_t)e->end);
	fprintf(f, "%-25s %8s  ", range,
		e->start < e->end ? output_size(size, e->end - e->start) : "");
	fprintf(f, "%-11s %s %s", or_unknown(mirror_cause_to_string(e->cause)),
		or_unknown(mirror_source_to_string(MIRROR_EVENT_SOURCE(e->flags))),
		or_unknown(mirror_guarantee_to_string(MIRROR_EVENT_GUARANTEE(e->flags))));

	human_argument(f, e, child_pid);

	if (e->flags & MIRROR_EVENT_F_MERGED)
		fputs("  merged", f);
	fputc('\n', f);
}

void output_event(struct output *output, const struct mirror_event *event, pid_t pid,
		  pid_t child_pid)
{
	if (output->broken)
		return;

	if (output->json)
		json_event(output->file, event, pid, child_pid);
	else
		human_event(output, event, pid, child_pid);
}

const char *output_size(char buf[static 16], uint64_t bytes)
{
	static const char units[] = "BKMGTPE";
	size_t i = 0;

	/* exact as long as that is short */
	while (bytes && units[i + 1] && (bytes >= 10000 || (bytes >= 1024 && !(bytes % 1024)))) {
		bytes /= 1024;
		i++;
	}
	snprintf(buf, 16, "%" PRIu64 "%c", bytes, units[i]);

	return buf;
}

void output_json_string(FILE *file, const char *string, size_t n_max)
{
	size_t i, n = strnlen(string, n_max);
	unsigned char c;

	fputc('"', file);
	for (i = 0; i < n; i++) {
		c = (unsigned char)string[i];

		/* nothing says that a process calls itself something in UTF-8 */
		if (c == '"' || c == '\\')
			fprintf(file, "\\%c", c);
		else if (c < 0x20 || c >= 0x7f)
			fprintf(file, "\\u%04x", c);
		else
			fputc(c, file);
	}
	fputc('"', file);
}

void output_features(FILE *file, uint64_t features, bool json)
{
	const char *separator = "";
	const char *name;
	unsigned int i;
	size_t j;

	for (i = 1; i < MIRROR_EVENT_TYPES; i++) {
		name = mirror_event_type_to_string(i);
		if (!(features & MIRROR_FEAT_EVENT(i)) || !name)
			continue;
		fprintf(file, json ? "%s\"%s\"" : "%s%s", separator, name);
		separator = json ? "," : " ";
	}

	for (j = 0; j < sizeof(features_by_name) / sizeof(*features_by_name); j++) {
		if (!(features & features_by_name[j].bit))
			continue;
		fprintf(file, json ? "%s\"%s\"" : "%s%s", separator, features_by_name[j].name);
		separator = json ? "," : " ";
	}
}

int output_finish_stdout(void)
{
	if (fflush(stdout) || ferror(stdout))
		return -EPIPE;

	return 0;
}
