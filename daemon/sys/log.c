/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The journal is spoken to directly and never waited for: its library does wait, and a
 * journal that hangs must not hang every target.  A line that it has no room for is
 * counted, and the number told when there is room again.
 */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include "shm.h"
#include "sys/log.h"

#define JOURNAL "/run/systemd/journal/socket"
#define RATE_LINES 20
#define RATE_NS 10000000000ULL

int log_level = LOG_NORMAL;

static int journal_fd = -1;
static uint64_t journal_lost;

static bool stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;

	return stream && sscanf(stream, "%llu:%llu", &dev, &ino) == 2 &&
	       fstat(STDERR_FILENO, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}

int log_to_journal(const char *path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd;

	if (strlen(path) >= sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	strcpy(sa.sun_path, path);
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || connect(fd, (const struct sockaddr *)&sa, sizeof(sa)) < 0) {
		int r = -errno;

		fd_close(fd);
		return r;
	}
	fd_close(journal_fd);
	journal_fd = fd;
	return 0;
}

void log_init(void)
{
	if (stderr_is_journal())
		log_to_journal(JOURNAL);
}

struct text {
	char buf[1024];
	size_t len;
};

static void add(struct text *t, const char *format, ...) _printf_(2, 3);

static void add(struct text *t, const char *format, ...)
{
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(t->buf + t->len, sizeof(t->buf) - t->len, format, args);
	va_end(args);
	if (n > 0)
		t->len += MIN((size_t)n, sizeof(t->buf) - t->len - 1);
}

static void add_fields(struct text *t, const struct log_fields *f)
{
	if (f->event)
		add(t, "MIRROR_EVENT=%s\n", f->event);
	if (f->target)
		add(t, "MIRROR_TARGET=%u\n", f->target);
	if (f->client)
		add(t, "MIRROR_CLIENT=%u\n", f->client);
	if (f->pid)
		add(t, "MIRROR_PID=%d\n", (int)f->pid);
	if (f->pid || f->client)
		add(t, "MIRROR_UID=%u\n", (unsigned int)f->uid);
}

static int to_journal(int level, const struct log_fields *fields, const char *line)
{
	static const int priority[] = {
		[LOG_QUIET] = 3, [LOG_NORMAL] = 6, [LOG_VERBOSE] = 7,
	};
	struct text t = { .len = 0 };

	/* what is last is cut off, if need be: never a field */
	add(&t, "PRIORITY=%d\nSYSLOG_IDENTIFIER=mirrord\n", priority[level]);
	if (fields)
		add_fields(&t, fields);
	if (journal_lost)
		add(&t, "MIRROR_LOST=%llu\n", (unsigned long long)journal_lost);
	add(&t, "MESSAGE=%s\n", line);
	if (send(journal_fd, t.buf, t.len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return -errno;
	return 0;
}

static void to_stderr(const char *line, size_t len)
{
	char with_end[512];

	len = MIN(len, sizeof(with_end) - 1);
	memcpy(with_end, line, len);
	with_end[len++] = '\n';
	if (write(STDERR_FILENO, with_end, len) < 0)
		return;		/* nowhere to say it */
}

static void put(int level, const struct log_fields *fields, struct text *t)
{
	int r = -ENOTCONN;

	/* It may hold a name that somebody chose: one line it stays. */
	for (size_t i = 0; i < t->len; i++)
		if (iscntrl((unsigned char)t->buf[i]))
			t->buf[i] = '?';
	if (journal_fd >= 0)
		r = to_journal(level, fields, t->buf);
	if (r == 0)
		journal_lost = 0;
	else if (r == -EAGAIN || r == -ENOBUFS)
		journal_lost++;
	else
		to_stderr(t->buf, t->len);
}

void log_line(int level, const char *format, ...)
{
	struct text t = { .len = 0 };
	va_list args;
	int n;

	if (level > log_level)
		return;
	va_start(args, format);
	n = vsnprintf(t.buf, 512, format, args);
	va_end(args);
	t.len = n < 0 ? 0 : (size_t)MIN(n, 511);
	put(level, NULL, &t);
}

/* May it speak?  With how many it kept back before. */
static bool rate_allows(struct log_rate *rate, uint32_t *ret_kept_back)
{
	uint64_t now = now_ns();

	*ret_kept_back = 0;
	if (!rate->since_ns || now - rate->since_ns > RATE_NS) {
		*ret_kept_back = rate->kept_back;
		*rate = (struct log_rate) { .since_ns = now };
	}
	if (rate->n >= RATE_LINES) {
		rate->kept_back++;
		return false;
	}
	rate->n++;
	return true;
}

void log_line_about(int level, struct log_rate *rate, const struct log_fields *fields,
		    const char *format, ...)
{
	struct text t = { .len = 0 };
	uint32_t kept_back;
	va_list args;
	int n;

	if (level > log_level || !rate_allows(rate, &kept_back))
		return;
	va_start(args, format);
	n = vsnprintf(t.buf, 512, format, args);
	va_end(args);
	t.len = n < 0 ? 0 : (size_t)MIN(n, 511);
	if (kept_back)
		add(&t, " (%u more of this kind before were not logged)", kept_back);
	put(level, fields, &t);
}
