/*
 * lxcd-walker: a child of the keeper, from its exec to the exec of the program that it becomes.
 * SPDX-License-Identifier: Apache-2.0
 *
 *     lxcd-walker CHANNEL KEEPER PID1 FLAGS [CGROUP...]
 *
 * Decimal numbers: the descriptors that lead to lxcd and to the keeper, that of the program of PID 1, the flags of the
 * clone, and files of version 1 cgroups to move into. Says PREPARED, with a socket of rtnetlink if it has a network of its
 * own, waits for a Spec, and walks it.
 *
 * A Spec is a list of system calls with their arguments, which lxcd has compiled (container/calls.py, where the layout
 * is written down): nothing is parsed, looked up or decided here. What cannot be known before it runs, the number of a
 * descriptor for one, goes through registers. A call that fails goes on where the Spec says for that error, or ends the
 * walk: which call it was and its errno is told to lxcd, which knows what that means.
 *
 * Freestanding, with neither a heap nor data of its own, so that whoever waits here to become a container costs a few
 * pages, and nothing of the keeper is in it.
 */
#define PROGRAM
#include "machine.h"

enum { CHANNEL = 3, KEEPER = 4, PID1 = 5, FIRST_FREE = 6, ABOVE = 16, MOST_CGROUPS = 256 };
/* Messages of lxcd, and ours. */
enum { SPEC = 1, FDS = 2, GO = 3, LAYOUT = 1 };
enum { PREPARED = 1, REACHED = 2, FAILED = 3, EXECUTING = 4 };
/* What an argument is. */
enum { NUMBER = 0, DATA = 1, REGISTER = 2, ADDRESS = 3, NO_REGISTER = 0xffffffff };
/* Acts that are no system calls. */
enum {
    RECEIVE = 0x10000, WAIT, SAY, FORK, HAND, TEST, SET, LOAD, KEEP, ERROR, RAISE, PRINT, DECIMAL, LIMIT
};
/* Where a failure was that no call of the Spec has caused. */
enum { ENTER_CGROUPS = 0, MAP_SPEC = 1, OPEN_NETLINK = 2, NO_CALL = 0xffffffff };

enum { STATUS_FAILED = 125, STATUS_ALONE = 1, ANY_ERROR = 0xffffffff, LAST_ERROR = 4095 };
enum { F_DUPFD_CLOEXEC = 1030, O_CLOEXEC = 02000000 };
enum { MSG_PEEK = 2, MSG_CTRUNC = 8, MSG_TRUNC = 32, MSG_DONTWAIT = 64, MSG_NOSIGNAL = 0x4000 };
#define MSG_CMSG_CLOEXEC 0x40000000
enum { SOL_SOCKET = 1, SCM_RIGHTS = 1, MOST_FDS = 253, SEEK_END = 2 };
enum { AF_NETLINK = 16, SOCK_RAW = 3, NETLINK_ROUTE = 0 };
enum { AF_INET = 2, SOCK_DGRAM = 2, SIOCSIFFLAGS = 0x8914, IFF_UP = 1 };
#define CLONE_NEWNET 0x40000000L
#define CLONE_PIDFD 0x1000L
#define CLONE_PARENT 0x8000L
#define CLONE_INTO_CGROUP 0x200000000L
enum { SIG_SETMASK = 2, SIGNALS = 64 };
enum { PROT_READ = 1, PROT_WRITE = 2, MAP_PRIVATE = 2, MESSAGE_BYTES = 4096, LINE_BYTES = 1024 };

struct vector {
    void *base;
    unsigned long length;
};

struct message {
    void *name;
    unsigned long name_length;
    struct vector *vectors;
    unsigned long vector_count;
    void *control;
    unsigned long control_length;
    int flags;
};

struct control {
    unsigned long length;
    int level, kind;
    int fds[MOST_FDS + 1];
};
enum { CONTROL_HEAD = 16 };

struct report {
    unsigned kind, call;
    int error;
    unsigned length;
    char text[LINE_BYTES];
};
enum { REPORT_HEAD = 16 };

struct spec {
    unsigned calls, relocations, registers, data;
};

struct step_call {
    unsigned number, step, result, then;
    struct {
        unsigned error, to;
    } unless[3];
    unsigned kinds, padding;
    long arguments[6];
};

struct clone_arguments {
    long flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

/* One message with descriptors; or an error. */
static long send_message(int channel, const void *data, unsigned long length, const int *fds, unsigned count)
{
    struct control control;
    struct vector vector = {(void *)data, length};
    struct message message = {0, 0, &vector, 1, 0, 0, 0};
    unsigned i;
    if (count) {
        control.length = CONTROL_HEAD + count * sizeof(int);
        control.level = SOL_SOCKET;
        control.kind = SCM_RIGHTS;
        for (i = 0; i < count; i++)
            control.fds[i] = fds[i];
        message.control = &control;
        message.control_length = (control.length + 7) & ~7UL;
    }
    return call(SENDMSG, channel, (long)&message, MSG_NOSIGNAL, 0, 0);
}

/* One message of lxcd. When that has gone, or says what it never says, there is nobody to tell: the end. */
static unsigned long receive(void *data, unsigned long size, int *fds, unsigned *count)
{
    struct control control;
    struct vector vector = {data, size};
    struct message message = {0, 0, &vector, 1, &control, sizeof control, 0};
    unsigned i;
    long length = call(RECVMSG, CHANNEL, (long)&message, MSG_CMSG_CLOEXEC, 0, 0);
    *count = 0;
    if (length < 4 || message.flags & (MSG_TRUNC | MSG_CTRUNC))
        end(STATUS_ALONE);
    if (message.control_length >= CONTROL_HEAD && control.level == SOL_SOCKET && control.kind == SCM_RIGHTS) {
        *count = (unsigned)((control.length - CONTROL_HEAD) / sizeof(int));
        for (i = 0; i < *count; i++)
            fds[i] = control.fds[i];
    }
    return (unsigned long)length;
}

static void say(unsigned kind, unsigned where, long error, struct report *with)
{
    struct report plain;
    struct report *report = with ? with : &plain;
    if (!with)
        report->length = 0;
    report->kind = kind;
    report->call = where;
    report->error = (int)error;
    if (send_message(CHANNEL, report, REPORT_HEAD + report->length, 0, 0) < 0)
        end(STATUS_ALONE);
}

__attribute__((noreturn)) static void failed(unsigned where, long error, long context)
{
    struct report report;
    long more;
    report.length = 0;
    /* A file system that is being configured says what is wrong in lines of its own, one by one: fsopen(2). */
    while (context >= 0 && report.length + 256 < sizeof report.text
           && (more = call(READ, context, (long)report.text + report.length, 255, 0, 0)) > 0) {
        report.length += (unsigned)more;
        report.text[report.length++] = '\n';
    }
    say(FAILED, where, error, &report);
    end(STATUS_FAILED);
}

/* ---- acts */

/* Descriptors that the Spec names, into their registers. Those that there are not stay -1. */
static void take_descriptors(long *registers, unsigned count)
{
    struct {
        unsigned kind, left, places[MOST_FDS];
    } message;
    int fds[MOST_FDS + 1];
    unsigned got, i;
    do {
        unsigned long length = receive(&message, sizeof message, fds, &got);
        if (message.kind != FDS || length != 8 + 4 * (unsigned long)got)
            end(STATUS_ALONE);
        for (i = 0; i < got; i++) {
            if (message.places[i] >= count)
                end(STATUS_ALONE);
            registers[message.places[i]] = fds[i];
        }
    } while (message.left);
}

/* GO may be here already: then nobody need be told that we have come. */
static void wait_here(unsigned where)
{
    char peeked;
    int fds[MOST_FDS + 1];
    unsigned kind[4], count;
    struct vector vector = {&peeked, 1};
    struct message message = {0, 0, &vector, 1, 0, 0, 0};
    if (call(RECVMSG, CHANNEL, (long)&message, MSG_PEEK | MSG_DONTWAIT, 0, 0) < 1)
        say(REACHED, where, 0, 0);
    receive(kind, sizeof kind, fds, &count);
    if (kind[0] != GO)
        end(STATUS_ALONE);
}

/* Go on as another child of the keeper, which gets its pidfd; this one ends. */
static long go_on(long flags, long cgroup)
{
    int pidfd = -1;
    struct clone_arguments arguments = {flags | CLONE_PARENT | CLONE_PIDFD, (long)&pidfd, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    long pid;
    if (cgroup >= 0) {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup;
    }
    pid = call(CLONE3, (long)&arguments, sizeof arguments, 0, 0, 0);
    if (pid > 0) {
        /* In a pid namespace of its own it is another there: the keeper sees the pid behind the pidfd. */
        static const char forked[] = "[\"FORKED\", null]";
        long result = send_message(KEEPER, forked, sizeof forked - 1, &pidfd, 1);
        if (result >= 0)
            end(0);
        call(PIDFD_SEND_SIGNAL, pidfd, SIGKILL, 0, 0, 0);
        return result;
    }
    return pid;
}

static long hand_over(const char *text, long length, const unsigned *places, long count, const long *registers)
{
    int fds[MOST_FDS];
    long i;
    for (i = 0; i < count; i++)
        fds[i] = (int)registers[places[i]];
    return send_message(KEEPER, text, (unsigned long)length, fds, (unsigned)count);
}

/* Whether what a call has left is what it must be. */
static long test(const void *place, long width, unsigned long mask, unsigned long wanted, long error)
{
    unsigned long found = width == 1 ? *(const unsigned char *)place
                        : width == 2 ? *(const unsigned short *)place
                        : width == 4 ? *(const unsigned *)place
                                     : *(const unsigned long *)place;
    return (found & mask) == wanted ? 0 : -error;
}

/* No capability but these, of those that are there; none to inherit. */
static long limit(unsigned long keep)
{
    struct capability_header header = {CAPABILITY_VERSION_3, 0};
    struct capability_sets sets[2];
    long result = call(CAPGET, (long)&header, (long)sets, 0, 0, 0);
    int i;
    if (result < 0)
        return result;
    for (i = 0; i < 2; i++) {
        sets[i].permitted &= (unsigned)(keep >> (32 * i));
        sets[i].effective = sets[i].permitted;
        sets[i].inheritable = 0;
    }
    return call(CAPSET, (long)&header, (long)sets, 0, 0, 0);
}

static unsigned long length_of(const char *text)
{
    unsigned long length = 0;
    while (text[length])
        length++;
    return length;
}

/* For a person: what could not be run, and the line of the table that says why. Where it cannot be written it is lost. */
static void print(int fd, const char *what, const char *table, long width, long index)
{
    struct vector vectors[3];
    vectors[0].base = (void *)what;
    vectors[0].length = length_of(what);
    vectors[1].base = (void *)(table + width * index);
    vectors[1].length = length_of(vectors[1].base);
    vectors[2].base = (void *)"\n";
    vectors[2].length = 1;
    call(WRITEV, fd, (long)vectors, 3, 0, 0);
}

static void decimal(char *place, unsigned long number)
{
    char digits[24];
    int count = 0;
    do
        digits[count++] = (char)('0' + number % 10);
    while (number /= 10);
    while (count)
        *place++ = digits[--count];
    *place = 0;
}

/* ---- the walk */

__attribute__((noreturn)) static void walk(char *begin, int progress)
{
    const struct spec *spec = (const struct spec *)begin;
    const struct step_call *calls = (const struct step_call *)(begin + sizeof *spec);
    const unsigned *relocations = (const unsigned *)(calls + spec->calls);
    long *registers = (long *)(relocations + ((spec->relocations + 1) & ~1U));
    char *data = (char *)(registers + spec->registers);
    unsigned i, step = 0, last_call = 0, kept_call = 0;
    long last_error = 0, kept_error = 0;

    for (i = 0; i < spec->relocations; i++)
        *(long *)(data + relocations[i]) += (long)data;
    for (i = 0; i < spec->calls;) {
        const struct step_call *now = &calls[i];
        long a[6], result;
        unsigned number;
        if (now->step != step) {
            /* For those who find us dead. */
            step = now->step;
            if (progress >= 0)
                call(PWRITE, progress, (long)&now->step, sizeof now->step, 0, 0);
        }
        for (number = 0; number < 6; number++) {
            long given = now->arguments[number];
            switch (now->kinds >> (2 * number) & 3) {
            case DATA: given += (long)data; break;
            case REGISTER: given = registers[given]; break;
            case ADDRESS: given = (long)&registers[given]; break;
            }
            a[number] = given;
        }
        result = 0;
        switch (now->number) {
        case RECEIVE: take_descriptors((long *)a[1], (unsigned)a[0]); break;
        case WAIT: wait_here(i); break;
        case SAY: say(EXECUTING, i, 0, 0); break;
        case FORK: result = go_on(a[0], a[1]); break;
        case HAND: result = hand_over((const char *)a[0], a[1], (const unsigned *)a[2], a[3], registers); break;
        case TEST: result = test((const void *)a[0], a[1], (unsigned long)a[2], (unsigned long)a[3], a[4]); break;
        case SET: result = a[0]; break;
        case LOAD: result = *(const int *)a[0]; break;
        case KEEP:
            kept_call = last_call;
            kept_error = last_error;
            break;
        case ERROR: result = last_error; break;
        case RAISE:
            if (!a[0])
                failed(kept_call, kept_error, -1);
            result = -a[0];
            break;
        case PRINT: print((int)a[0], (const char *)a[1], (const char *)a[2], a[3], a[4]); break;
        case DECIMAL: decimal((char *)a[0], (unsigned long)a[1]); break;
        case LIMIT: result = limit((unsigned long)a[0]); break;
        default:
            /* EAGAIN of openat2: a rename somewhere made the kernel unsure that `..` stayed inside. */
            do
                result = call6(now->number, a[0], a[1], a[2], a[3], a[4], a[5]);
            while (now->number == OPENAT2 && (result == -EAGAIN || result == -EINTR));
        }
        if (result < 0 && result >= -LAST_ERROR && now->number != SET && now->number != LOAD) {
            unsigned to = 0, way;
            for (way = 0; way < 3 && !to; way++)
                if (now->unless[way].to
                    && (now->unless[way].error == ANY_ERROR || now->unless[way].error == (unsigned)-result))
                    to = now->unless[way].to;
            if (!to)
                failed(i, -result, now->number == FSCONFIG ? a[0] : -1);
            last_call = i;
            last_error = -result;
            i = to;
            continue;
        }
        if (now->result != NO_REGISTER)
            registers[now->result] = result;
        i = now->then ? now->then : i + 1;
    }
    failed(i, 0, -1);
}

/* ---- before it */

/* Of all its parts. */
static unsigned long size_of(const struct spec *spec)
{
    return sizeof *spec + spec->calls * sizeof(struct step_call) + ((spec->relocations + 1UL) & ~1UL) * 4
         + spec->registers * sizeof(long) + spec->data;
}

static long number_in(const char *text)
{
    long number = 0;
    while (*text >= '0' && *text <= '9')
        number = number * 10 + (*text++ - '0');
    return number;
}

/* Nothing blocked, nothing ignored: the keeper's own ways with signals would outlive the exec. */
static void reset_signals(void)
{
    static const long as_usual[4];
    long number;
    for (number = 1; number <= SIGNALS; number++)
        call(RT_SIGACTION, number, (long)as_usual, 0, 8, 0);
    call(RT_SIGPROCMASK, SIG_SETMASK, (long)as_usual, 0, 8, 0);
}

/* Here, where nobody waits for it; that it is up is seen to again by a step, which also tells what is wrong. */
static void set_loopback_up(void)
{
    struct {
        char name[16];
        short flags;
        char rest[22];
    } request;
    unsigned i;
    long any = call(SOCKET, AF_INET, SOCK_DGRAM | O_CLOEXEC, 0, 0, 0);
    for (i = 0; i < sizeof request; i++)
        ((volatile char *)&request)[i] = 0;
    request.name[0] = 'l';
    request.name[1] = 'o';
    request.flags = IFF_UP;
    call(IOCTL, any, SIOCSIFFLAGS, (long)&request, 0, 0);
    call(CLOSE, any, 0, 0, 0, 0);
}

/* PREPARED, with a socket by which lxcd watches our network: it never has to come here itself for that. */
static void hand_over_network(void)
{
    static const unsigned prepared[4] = {PREPARED};
    long result = call(SOCKET, AF_NETLINK, SOCK_RAW | O_CLOEXEC, NETLINK_ROUTE, 0, 0);
    int netlink = (int)result;
    if (result < 0)
        failed(NO_CALL - OPEN_NETLINK, -result, -1);
    if (send_message(CHANNEL, prepared, sizeof prepared, &netlink, 1) < 0)
        end(STATUS_ALONE);
    call(CLOSE, netlink, 0, 0, 0, 0);
}

static void move_to(int from, int place)
{
    if (call(DUP3, from, place, O_CLOEXEC, 0, 0) < 0)
        end(STATUS_FAILED);
}

static void live(const long *stack)
{
    const char *const *words = (const char *const *)(stack + 1);
    int cgroups[MOST_CGROUPS], fds[MOST_FDS + 1], own[3];
    unsigned count, i, cgroup_count = 0;
    unsigned message[4];
    long flags, place, result;

    /* Nobody may trace us, or look at what we have open, until we are what we are to be. */
    call(PRCTL, PR_SET_DUMPABLE, 0, 0, 0, 0);
    call(PRCTL, PR_SET_NAME, (long)"lxcd-walker", 0, 0, 0);
    reset_signals();
    if (stack[0] < 5 || stack[0] > 5 + MOST_CGROUPS)
        end(STATUS_FAILED);
    /* First out of the way of the places where each is to be. */
    for (i = 0; i < 3; i++)
        own[i] = (int)call(FCNTL, number_in(words[1 + i]), F_DUPFD_CLOEXEC, ABOVE, 0, 0);
    flags = number_in(words[4]);
    for (i = 5; i < stack[0]; i++)
        cgroups[cgroup_count++] = (int)call(FCNTL, number_in(words[i]), F_DUPFD_CLOEXEC, ABOVE, 0, 0);
    for (i = 0; i < 3; i++)
        move_to(own[i], CHANNEL + (int)i);
    /* An exec as nobody of a new user namespace keeps only what was made ambient (spawn.c). */
    call(PRCTL, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    limit(~0UL);
    for (i = 0; i < cgroup_count; i++) {
        /* 0 is the writer itself: cgroups(7). Only a thread that moves itself need not wait for an RCU grace period. */
        result = call(WRITE, cgroups[i], (long)"0", 1, 0, 0);
        if (result < 0)
            failed(NO_CALL - ENTER_CGROUPS, -result, -1);
    }
    call(CLOSE_RANGE, FIRST_FREE, ~0U, 0, 0, 0);
    if (flags & CLONE_NEWNET) {
        set_loopback_up();
        hand_over_network();
    } else {
        say(PREPARED, 0, 0, 0);
    }
    if (receive(message, sizeof message, fds, &count) != sizeof message || message[0] != SPEC || !count)
        end(STATUS_ALONE);
    if (message[2] != LAYOUT)
        failed(NO_CALL - MAP_SPEC, EPROTO, -1);
    /* Behind the end of a file the rest of its last page would be read as zeros. */
    if (call(LSEEK, fds[0], 0, SEEK_END, 0, 0) != message[1])
        failed(NO_CALL - MAP_SPEC, EPROTO, -1);
    place = call6(MMAP, 0, message[1], PROT_READ | PROT_WRITE, MAP_PRIVATE, fds[0], 0);
    if (place < 0 && place >= -LAST_ERROR)
        failed(NO_CALL - MAP_SPEC, -place, -1);
    call(CLOSE, fds[0], 0, 0, 0, 0);
    if (size_of((const struct spec *)place) != message[1])
        failed(NO_CALL - MAP_SPEC, EPROTO, -1);
    walk((char *)place, count > 1 ? fds[1] : -1);
}
