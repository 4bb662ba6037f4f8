/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The first program of the virtual machine
 *
 * Makes a root of the host's, which is only read, and a tmpfs above it, has it
 * prepared, and goes on there with systemd.  It is all there is in the first file
 * system but for modules and what the tests need, so it is linked statically.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define SYSTEMD "/lib/systemd/systemd"
#define GUEST "/run/mirror-vm"

/* The kernel panics, and so ends the machine. */
static _Noreturn void die(const char *what)
{
	fprintf(stderr, "init: %s: %s\n", what, strerror(errno));
	exit(1);
}

__attribute__((format(printf, 2, 3)))
static char *join(char *path, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	if (vsnprintf(path, PATH_MAX, format, args) >= PATH_MAX)
		die("too long a path");
	va_end(args);
	return path;
}

/* At a folder that is made if it is not there. */
static void mount_at(const char *type, const char *source, const char *target,
		     unsigned long flags, const char *data)
{
	if (mkdir(target, 0755) < 0 && errno != EEXIST)
		die(target);
	if (mount(source, target, type, flags, data) < 0)
		die(target);
}

/* The value of mirror.NAME= on the kernel's command line, or "". */
static char *option(const char *name)
{
	static char line[4096];
	char wanted[64], *found, *value;
	FILE *f = fopen("/proc/cmdline", "re");

	if (!f || !fgets(line, sizeof(line), f))
		die("/proc/cmdline");
	fclose(f);
	snprintf(wanted, sizeof(wanted), " mirror.%s=", name);
	found = strstr(line, wanted);
	value = strdup(found ? found + strlen(wanted) : "");
	if (!value)
		die("memory");
	value[strcspn(value, " \n")] = 0;
	return value;
}

static int is_name(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

/* In the order of their names. */
static void load_modules(const char *folder)
{
	struct dirent **names;
	char path[PATH_MAX];
	int fd, n = scandir(folder, &names, is_name, alphasort);

	for (int i = 0; i < n; i++) {
		fd = open(join(path, "%s/%s", folder, names[i]->d_name), O_RDONLY | O_CLOEXEC);
		if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) < 0)
			die(path);
		close(fd);
		free(names[i]);
	}
	free(names);
}

static void copy(const char *from, const char *to)
{
	int in = open(from, O_RDONLY | O_CLOEXEC);
	int out = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
	char buf[65536];
	ssize_t n;

	if (in < 0 || out < 0)
		die(from);
	while ((n = read(in, buf, sizeof(buf))) > 0)
		if (write(out, buf, n) != n)
			die(to);
	close(in);
	close(out);
}

static void copy_folder(const char *from, const char *to)
{
	char source[PATH_MAX], target[PATH_MAX];
	struct dirent **names;
	int n = scandir(from, &names, is_name, NULL);

	mkdir(to, 0755);
	for (int i = 0; i < n; i++) {
		copy(join(source, "%s/%s", from, names[i]->d_name),
		     join(target, "%s/%s", to, names[i]->d_name));
		free(names[i]);
	}
	free(names);
}

static void make_path(const char *path)
{
	char part[PATH_MAX];

	for (const char *p = path + 1; *p; p++)
		if (*p == '/')
			mkdir(join(part, "%.*s", (int)(p - path), path), 0755);
	mkdir(path, 0755);
}

/* What the tests need of the host's /tmp and /run, which are hidden. */
static void show(char *folders)
{
	char source[PATH_MAX], target[PATH_MAX], *save;

	for (char *f = strtok_r(folders, ",", &save); f; f = strtok_r(NULL, ",", &save)) {
		if (strncmp(f, "/tmp/", 5) && strncmp(f, "/run/", 5))
			continue;
		make_path(join(target, "/new%s", f));
		mount_at(NULL, join(source, "/host%s", f), target, MS_BIND, NULL);
	}
}

static void prepare(const char *stage)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		if (chroot("/new") < 0 || chdir("/") < 0)
			die("chroot");
		execl("/bin/sh", "sh", GUEST "/prepare", stage, NULL);
		die("/bin/sh");
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		die("prepare");
}

int main(void)
{
	mount_at("proc", "proc", "/proc", 0, NULL);
	load_modules("/modules");
	mount_at("9p", "host", "/host", MS_RDONLY,
		 "trans=virtio,version=9p2000.L,cache=loose,msize=262144");
	mount_at("tmpfs", "tmpfs", "/over", 0, NULL);
	mkdir("/over/upper", 0755);
	mkdir("/over/work", 0755);
	mount_at("overlay", "overlay", "/new", 0,
		 "lowerdir=/host,upperdir=/over/upper,workdir=/over/work");
	mount_at("devtmpfs", "devtmpfs", "/new/dev", 0, NULL);
	mount_at("proc", "proc", "/new/proc", 0, NULL);
	mount_at("tmpfs", "tmpfs", "/new/tmp", 0, "mode=1777");
	mount_at("tmpfs", "tmpfs", "/new/run", 0, "mode=755");
	copy_folder("/guest", "/new" GUEST);
	show(option("folders"));
	prepare(option("stage"));

	/* the first file system cannot be unmounted, only covered */
	if (chdir("/new") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
	    chdir("/") < 0)
		die("the root");
	execl(SYSTEMD, SYSTEMD, NULL);
	die(SYSTEMD);
}
