/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who may observe whom
 *
 * The rule of ptrace(2), for the client and not for us:
 *
 *   - who has CAP_SYS_PTRACE in our user namespace, everybody;
 *   - itself, unless it has become another user since it connected;
 *   - processes of its user and group, in all three ids, that are dumpable, and have no
 *     capability that it lacks; in its own user namespace, or in one below that its user
 *     made.
 *
 * A connection says who made it, not what that process had.  This is looked up in /proc,
 * and so later.  By then the process may have ended, with its pid another's, or may have
 * executed a program that can do more: and somebody else holds the connection.  So what
 * it has counts only if the pidfd of the connection says that it is there, its user is
 * still that of the connection, and it is dumpable.  Who gained anything by execve(2) is
 * not, unless it says so itself.
 */
#include <fcntl.h>
#include <linux/nsfs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include "client.h"
#include "permission.h"
#include "procfs.h"

#define CAP_SYS_PTRACE_BIT 19
#define NS_DEPTH_MAX 33		/* the kernel's limit */

static bool all_are(const uint32_t ids[3], uint32_t id)
{
	return ids[0] == id && ids[1] == id && ids[2] == id;
}

static int open_user_ns(pid_t pid)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)pid);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static bool is_same_file(int a, int b)
{
	struct stat sa, sb;

	return fstat(a, &sa) == 0 && fstat(b, &sb) == 0 && sa.st_dev == sb.st_dev &&
	       sa.st_ino == sb.st_ino;
}

/* Is the namespace below that other one, and did @uid make the topmost one between? */
static bool is_made_below(int ns_fd, int above_fd, uid_t uid)
{
	_cleanup_(fd_closep) int fd = fcntl(ns_fd, F_DUPFD_CLOEXEC, 0);
	uid_t owner;

	for (int i = 0; i < NS_DEPTH_MAX; i++) {
		int parent = ioctl(fd, NS_GET_PARENT);

		if (parent < 0)
			return false;
		if (is_same_file(parent, above_fd)) {
			fd_close(parent);
			return ioctl(fd, NS_GET_OWNER_UID, &owner) == 0 && owner == uid;
		}
		fd_close(fd);
		fd = parent;
	}
	return false;
}

/* Does what that process has belong to who connected? */
static bool is_own(pid_t pid, uid_t uid, const struct proc_creds *creds)
{
	uid_t owner;

	return all_are(creds->uid, uid) && proc_owner(pid, &owner) == 0 && owner == uid;
}

bool permission_for_all(pid_t pid, uid_t uid)
{
	_cleanup_(fd_closep) int ours = open_user_ns(getpid()), theirs = -1;
	struct proc_creds creds;

	if (proc_creds_read(pid, &creds) < 0 || !(creds.effective >> CAP_SYS_PTRACE_BIT & 1))
		return false;
	if (uid && !is_own(pid, uid, &creds))
		return false;
	/* in another namespace capabilities are of that one */
	theirs = open_user_ns(pid);
	return is_same_file(ours, theirs);
}

bool permission_is_same(const struct client *c)
{
	pid_t pid;

	/* who waits for our answer has not gone */
	return c->is_calling ||
	       (proc_pid_of(c->conn.pidfd, &pid) == 0 && pid == c->conn.pid);
}

static bool may_by_capabilities(struct client *c, pid_t pid, const struct proc_creds *target)
{
	_cleanup_(fd_closep) int ours = open_user_ns(c->conn.pid), theirs = open_user_ns(pid);
	struct proc_creds own;

	/* Users that we do not know all look alike; but of these we may not see this. */
	if (ours < 0 || theirs < 0)
		return false;
	if (!is_same_file(ours, theirs))
		return is_made_below(theirs, ours, c->conn.uid);
	if (!target->permitted)
		return true;
	return proc_creds_read(c->conn.pid, &own) == 0 &&
	       is_own(c->conn.pid, c->conn.uid, &own) && !(target->permitted & ~own.permitted);
}

bool client_may_observe(struct client *c, pid_t pid)
{
	struct proc_creds target;

	if (c->privileged)
		return true;
	if (proc_creds_read(pid, &target) < 0)
		return false;
	/* Itself, dumpable or not. */
	if (pid == c->conn.pid && all_are(target.uid, c->conn.uid) && permission_is_same(c))
		return true;
	/* Not dumpable: /proc belongs to root then, so it is not its own. */
	return is_own(pid, c->conn.uid, &target) && all_are(target.gid, c->conn.gid) &&
	       may_by_capabilities(c, pid, &target) && permission_is_same(c);
}
