/*
 * The floor: what a start must do, done by hand, and nothing more.
 *
 *     floor ROOTFS NAME COUNT HOST_ID stay|run PROGRAM [ARGUMENT...]
 *
 * Starts COUNT containers one after the other, each with cgroups NAME.0, NAME.1 ... in every hierarchy, namespaces of
 * its own (mnt pid uts ipc net cgroup; user unless HOST_ID, which root is mapped to, is negative), proc and sysfs as
 * `lxc.mount.auto = proc:mixed sys:mixed` has them, /dev on a tmpfs, a devpts whose first terminal is the console, and
 * a bind mount of ROOTFS as its root. Prints a line for each, in nanoseconds of one monotonic clock:
 *
 *     PID TOTAL CGROUPS CLONE MOVE BUILD EXEC [EXIT]
 *
 * TOTAL is from before the first mkdir until the exec is known: the other end of a close-on-exec pipe has gone. The
 * five after it add up to it. EXIT, of `run`, is from the same beginning until the program was reaped; its status must
 * be 0. With `stay` the containers are there until standard input ends. Then they are killed and their cgroups
 * removed, which nobody times.
 *
 * A benchmark's measuring rod, not a container manager: no configuration, no limits, and a failure is a line of text.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

/* <sys/mount.h> and <linux/mount.h> cannot both be included with every glibc; these are all that is wanted of it. */
int mount(const char *, const char *, const char *, unsigned long, const void *);
int umount2(const char *, int);
enum { NOSUID = 2, NODEV = 4, NOEXEC = 8, BIND = 4096, RECURSIVE = 16384, PRIVATE = 1 << 18, DETACH = 2 };

enum { MAX_TREES = 32, MAX_COUNT = 4096, MAX_PATH = 512, ID_RANGE = 65536 };

struct tree {
    char path[256];
    bool unified, cpuset, delegated;
};

struct container {
    char name[128];
    pid_t pid;
    int master;
    int64_t begin, made, cloned, done, reaped;
    int64_t moved, built; /* as the child saw them, on the same clock */
};

/* What the child tells before it execs. */
struct report {
    int64_t moved, built;
};

static struct tree trees[MAX_TREES];
static int tree_count;
static const char *rootfs;
static long host_id = -1;
static char **program;
/* Where the child says what went wrong; -1 in the parent. */
static int complaints = -1;

static int64_t now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...) {
    char text[MAX_PATH * 2];
    int error = errno;
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if ((size_t)length < sizeof text)
        snprintf(text + length, sizeof text - (size_t)length, ": %s\n", strerror(error));
    if (write(complaints < 0 ? 2 : complaints, text, strlen(text)) < 0)
        _exit(126);
    _exit(125);
}

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        if ((call) < 0)                                                                                                \
            fail("%s", #call);                                                                                         \
    } while (0)

static char *join(char *buffer, const char *directory, const char *name) {
    if (snprintf(buffer, MAX_PATH, "%s/%s", directory, name) >= MAX_PATH)
        fail("%s/%s is too long", directory, name);
    return buffer;
}

static void write_text(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        fail("writing %s", path);
    close(fd);
}

/* ---- cgroups */

/* Every hierarchy that is mounted below /sys/fs/cgroup, once. */
static void find_trees(void) {
    static char lines[MAX_TREES][512];
    FILE *file = fopen("/proc/self/mountinfo", "re");
    char line[4096];
    if (!file)
        fail("/proc/self/mountinfo");
    while (fgets(line, sizeof line, file)) {
        char root[256], target[256], type[32], options[256];
        const char *rest = strstr(line, " - ");
        if (!rest || sscanf(line, "%*s %*s %*s %255s %255s", root, target) != 2)
            continue;
        if (sscanf(rest, " - %31s %*s %255s", type, options) != 2 || strncmp(type, "cgroup", 6) != 0)
            continue;
        if (strncmp(target, "/sys/fs/cgroup", 14) != 0 || strcmp(root, "/") != 0)
            continue;
        bool known = false;
        snprintf(lines[tree_count], sizeof lines[0], "%s %s", type, options);
        for (int i = 0; i < tree_count; i++)
            known = known || strcmp(lines[i], lines[tree_count]) == 0;
        if (known)
            continue;
        struct tree *tree = &trees[tree_count++];
        snprintf(tree->path, sizeof tree->path, "%s", target);
        tree->unified = strcmp(type, "cgroup2") == 0;
        tree->cpuset = !tree->unified && strstr(options, "cpuset");
        tree->delegated = tree->unified || strstr(options, "name=");
        if (tree_count == MAX_TREES)
            break;
    }
    fclose(file);
}

/* A new cpuset of version 1 is empty and takes no process: cpuset(7). */
static void inherit(const char *tree, const char *own, const char *name) {
    char path[MAX_PATH], text[4096];
    int fd = open(join(path, tree, name), O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (length < 0)
        fail("reading %s", path);
    close(fd);
    text[length] = 0;
    write_text(join(path, own, name), text);
}

static void delegate(const char *own, bool unified) {
    const char *names[] = {"cgroup.procs", unified ? "cgroup.threads" : "tasks", "cgroup.subtree_control"};
    char path[MAX_PATH];
    TRY(chown(own, (uid_t)host_id, (gid_t)host_id));
    for (int i = 0; i < (unified ? 3 : 2); i++)
        if (chown(join(path, own, names[i]), (uid_t)host_id, (gid_t)host_id) < 0)
            fail("chown %s", path);
}

/* Makes the directories; `procs` gets the files of version 1 to move by. Returns version 2's directory, or -1. */
static int make_cgroups(const char *name, int *procs, int *procs_count) {
    int unified = -1;
    *procs_count = 0;
    for (int i = 0; i < tree_count; i++) {
        char own[MAX_PATH], path[MAX_PATH];
        if (mkdir(join(own, trees[i].path, name), 0755) < 0)
            fail("mkdir %s", own);
        if (trees[i].cpuset) {
            inherit(trees[i].path, own, "cpuset.cpus");
            inherit(trees[i].path, own, "cpuset.mems");
        }
        if (host_id >= 0 && trees[i].delegated)
            delegate(own, trees[i].unified);
        int fd = trees[i].unified ? open(own, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
                                  : open(join(path, own, "cgroup.procs"), O_WRONLY | O_CLOEXEC);
        if (fd < 0)
            fail("opening %s", own);
        if (trees[i].unified)
            unified = fd;
        else
            procs[(*procs_count)++] = fd;
    }
    return unified;
}

static void remove_cgroups(const char *name) {
    for (int i = 0; i < tree_count; i++) {
        char own[MAX_PATH];
        join(own, trees[i].path, name);
        /* What was reaped may still be counted in there for a moment. */
        for (int attempt = 0; rmdir(own) < 0 && errno == EBUSY && attempt < 5000; attempt++)
            usleep(1000);
    }
}

/* ---- the child */

static void make_readonly(int fd) {
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY};
    if (fd < 0)
        return;
    TRY(syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attributes, sizeof attributes));
}

/* A second mount of what is there, hung up nowhere yet; -1: this kernel has no such file. */
static int copy_of(const char *path) {
    int fd = (int)syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | O_CLOEXEC);
    if (fd < 0 && errno != ENOENT)
        fail("open_tree %s", path);
    return fd;
}

static void hang(int fd, const char *path) {
    if (fd < 0)
        return;
    if (syscall(SYS_move_mount, fd, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        fail("move_mount %s", path);
    close(fd);
}

/* proc:mixed and sys:mixed. Paths are relative to the container's root. */
static void mount_kernel_views(void) {
    unsigned long harmless = NOSUID | NODEV | NOEXEC;
    TRY(mount("proc", "proc", "proc", harmless, NULL));
    int sys = copy_of("proc/sys"), net = copy_of("proc/sys/net"), sysrq = copy_of("proc/sysrq-trigger");
    make_readonly(sys);
    make_readonly(sysrq);
    hang(sys, "proc/sys");
    hang(net, "proc/sys/net");
    hang(sysrq, "proc/sysrq-trigger");
    TRY(mount("sysfs", "sys", "sysfs", harmless, NULL));
    int devices = copy_of("sys/devices/virtual/net");
    int whole = open("sys", O_PATH | O_CLOEXEC);
    make_readonly(whole);
    close(whole);
    hang(devices, "sys/devices/virtual/net");
}

static void fill_dev(void) {
    static const struct {
        const char *name, *host;
        unsigned major, minor;
    } nodes[] = {
        {"dev/full", "/dev/full", 1, 7},       {"dev/null", "/dev/null", 1, 3}, {"dev/random", "/dev/random", 1, 8},
        {"dev/urandom", "/dev/urandom", 1, 9}, {"dev/tty", "/dev/tty", 5, 0},   {"dev/zero", "/dev/zero", 1, 5},
    };
    static const char *const links[][2] = {
        {"/proc/self/fd", "dev/fd"},         {"/proc/self/fd/0", "dev/stdin"}, {"/proc/self/fd/1", "dev/stdout"},
        {"/proc/self/fd/2", "dev/stderr"},   {"/proc/kcore", "dev/core"},      {"pts/ptmx", "dev/ptmx"},
    };
    TRY(mount("none", "dev", "tmpfs", NOSUID, "mode=755,size=500000"));
    for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++) {
        if (host_id < 0) {
            TRY(mknod(nodes[i].name, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)));
        } else { /* mknod(2) is not for user namespaces */
            TRY(mknod(nodes[i].name, S_IFREG | 0666, 0));
            TRY(mount(nodes[i].host, nodes[i].name, NULL, BIND, NULL));
        }
    }
    for (size_t i = 0; i < sizeof links / sizeof *links; i++)
        TRY(symlink(links[i][0], links[i][1]));
    TRY(mkdir("dev/pts", 0755));
    TRY(mkdir("dev/shm", 0755));
    TRY(mkdir("dev/mqueue", 0755));
}

/* Returns the slave; the master goes to the parent, as it must: whoever holds it keeps the console alive. */
static int open_console(int channel) {
    int unlock = 0;
    TRY(mount("devpts", "dev/pts", "devpts", NOSUID | NOEXEC, "newinstance,mode=0620,ptmxmode=0666,gid=5,max=1024"));
    int master = open("dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    TRY(master);
    TRY(ioctl(master, TIOCSPTLCK, &unlock));
    int slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    TRY(slave);
    struct winsize size = {.ws_row = 24, .ws_col = 80};
    TRY(ioctl(master, TIOCSWINSZ, &size));
    TRY(mknod("dev/console", S_IFREG | 0600, 0));
    TRY(mount("dev/pts/0", "dev/console", NULL, BIND, NULL));

    char byte = 0, control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
    memcpy(CMSG_DATA(header), &master, sizeof master);
    TRY(sendmsg(channel, &message, 0));
    return slave;
}

static void set_lo_up(void) {
    struct ifreq request = {.ifr_name = "lo"};
    int any = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    TRY(any);
    TRY(ioctl(any, SIOCGIFFLAGS, &request));
    request.ifr_flags |= IFF_UP;
    TRY(ioctl(any, SIOCSIFFLAGS, &request));
    close(any);
}

__attribute__((noreturn)) static void live(const char *name, int pipe, int channel, const int *procs, int procs_count) {
    static char *const environment[] = {"container=lxc", NULL};
    struct report report;
    complaints = pipe;
    umask(0);
    for (int i = 0; i < procs_count; i++)
        TRY(write(procs[i], "0", 1)); /* 0 is the writer itself: cgroups(7) */
    report.moved = now();
    if (host_id >= 0) {
        char go;
        if (read(channel, &go, 1) != 1)
            fail("no id maps");
        TRY(syscall(SYS_setgroups, 0, NULL));
        TRY(setresgid(0, 0, 0));
        TRY(setresuid(0, 0, 0));
    }
    TRY(unshare(CLONE_NEWCGROUP));
    TRY(sethostname(name, strlen(name)));
    TRY(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL));
    set_lo_up();
    TRY(mount(NULL, "/", NULL, PRIVATE | RECURSIVE, NULL));
    TRY(mount(rootfs, rootfs, NULL, BIND | RECURSIVE, NULL));
    TRY(chdir(rootfs));
    fill_dev();
    mount_kernel_views();
    int console = open_console(channel);
    TRY(syscall(SYS_pivot_root, ".", "."));
    TRY(umount2(".", DETACH));
    TRY(chdir("/"));
    umask(022);
    TRY(setsid());
    TRY(ioctl(console, TIOCSCTTY, 0));
    for (int i = 0; i < 3; i++)
        TRY(dup2(console, i));
    report.built = now();
    TRY(write(pipe, &report, sizeof report));
    execve(program[0], program, environment);
    fail("exec %s", program[0]);
}

/* ---- the parent */

static void write_maps(pid_t pid) {
    char path[64], text[64];
    snprintf(text, sizeof text, "0 %ld %d\n", host_id, ID_RANGE);
    snprintf(path, sizeof path, "/proc/%d/uid_map", pid);
    write_text(path, text);
    snprintf(path, sizeof path, "/proc/%d/gid_map", pid);
    write_text(path, text);
}

static int received_master(int channel) {
    char byte, control[CMSG_SPACE(sizeof(int))];
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    int master = -1;
    TRY(recvmsg(channel, &message, MSG_CMSG_CLOEXEC));
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_type == SCM_RIGHTS)
        memcpy(&master, CMSG_DATA(header), sizeof master);
    return master;
}

/* Reads until the other end is gone, which a successful exec does. A complaint may come instead of the report, or
   behind it if it is the exec that failed. */
static bool await_exec(int pipe, struct container *container) {
    union {
        struct report report;
        char text[4096];
    } got;
    size_t length = 0;
    ssize_t count;
    while ((count = read(pipe, got.text + length, sizeof got.text - 1 - length)) > 0)
        length += (size_t)count;
    container->done = now();
    if (length == sizeof got.report) {
        container->moved = got.report.moved;
        container->built = got.report.built;
        return true;
    }
    bool reported = length > sizeof got.report && got.report.built > container->begin && got.report.built < container->done;
    size_t skip = reported ? sizeof got.report : 0;
    got.text[length] = 0;
    fprintf(stderr, "floor: %s", got.text + skip);
    return false;
}

static bool start(struct container *container) {
    int procs[MAX_TREES], procs_count, report[2], channel[2];
    container->begin = now();
    int unified = make_cgroups(container->name, procs, &procs_count);
    container->made = now();
    TRY(pipe2(report, O_CLOEXEC));
    TRY(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel));
    struct clone_args arguments = {
        .flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET,
        .exit_signal = SIGCHLD,
    };
    if (host_id >= 0)
        arguments.flags |= CLONE_NEWUSER;
    if (unified >= 0) {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = (unsigned)unified;
    }
    container->pid = (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
    TRY(container->pid);
    if (container->pid == 0)
        live(container->name, report[1], channel[1], procs, procs_count);
    container->cloned = now();
    close(report[1]);
    close(channel[1]);
    if (host_id >= 0) {
        write_maps(container->pid);
        TRY(write(channel[0], "", 1));
    }
    bool good = await_exec(report[0], container);
    /* From here on nothing counts, unless the program is to end by itself. */
    if (good)
        container->master = received_master(channel[0]);
    close(report[0]);
    close(channel[0]);
    if (unified >= 0)
        close(unified);
    for (int i = 0; i < procs_count; i++)
        close(procs[i]);
    return good;
}

static bool reap(struct container *container) {
    int status;
    TRY(waitpid(container->pid, &status, 0));
    container->reaped = now();
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void print(const struct container *c, bool run) {
    /* The child may be moved before the parent's clone3 returns. */
    int64_t cloned = c->cloned < c->moved ? c->cloned : c->moved;
    printf("%d %lld %lld %lld %lld %lld %lld", c->pid, (long long)(c->done - c->begin), (long long)(c->made - c->begin),
           (long long)(cloned - c->made), (long long)(c->moved - cloned), (long long)(c->built - c->moved),
           (long long)(c->done - c->built));
    if (run)
        printf(" %lld", (long long)(c->reaped - c->begin));
    printf("\n");
}

int main(int argc, char **argv) {
    static struct container containers[MAX_COUNT];
    int started = 0, count = argc > 6 ? atoi(argv[3]) : 0;
    if (count < 1 || count > MAX_COUNT) {
        fputs("usage: floor ROOTFS NAME COUNT HOST_ID stay|run PROGRAM [ARGUMENT...]\n", stderr);
        return 2;
    }
    rootfs = argv[1];
    host_id = atol(argv[4]);
    program = argv + 6;
    bool run = strcmp(argv[5], "run") == 0, good = true;
    find_trees();
    for (; started < count && good; started++) {
        struct container *container = &containers[started];
        snprintf(container->name, sizeof container->name, "%s.%d", argv[2], started);
        good = start(container);
        if (good && run)
            good = reap(container);
    }
    for (int j = 0; good && j < started; j++)
        print(&containers[j], run);
    fflush(stdout);
    if (good && !run) {
        char byte;
        while (read(0, &byte, 1) > 0)
            continue;
    }
    for (int j = 0; j < started; j++)
        if (containers[j].reaped == 0)
            kill(containers[j].pid, SIGKILL);
    for (int j = 0; j < started; j++) {
        if (containers[j].reaped == 0)
            waitpid(containers[j].pid, NULL, 0);
        remove_cgroups(containers[j].name);
    }
    return good ? 0 : 1;
}
