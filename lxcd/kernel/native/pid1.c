/*
 * lxc-init: PID 1 of an application container. SPDX-License-Identifier: Apache-2.0
 *
 *     lxc-init [-- COMMAND ARGUMENT...]
 *
 * COMMAND runs already and is our child: all that we do with argv is to show it to ps. The whole environment is one
 * string, NAME=PID with the command's pid, or nothing: there is no command.
 *
 * Freestanding: no C library, no data that is written to, no heap. What it costs is a stack, and a page or two of
 * code that all containers of a keeper share.
 */

#define PROGRAM
#include "machine.h"

enum { P_ALL = 0, WNOHANG = 1, WEXITED = 4, WNOWAIT = 0x01000000 };
enum { EVERYBODY = -1, FAILED = 125 };

/* siginfo_t of 64-bit machines. */
struct arrived {
    int number, error, code, padding;
    int pid; /* of a signal that has a sender */
    int rest[27];
};

/* The number behind the `=`; 0 for no string at all. */
static int pid_in(const char *variable)
{
    int pid = 0;
    if (!variable)
        return 0;
    while (*variable && *variable++ != '=')
        ;
    while (*variable >= '0' && *variable <= '9')
        pid = pid * 10 + (*variable++ - '0');
    return pid;
}

/* Reap all that has ended; whether the command is among them. Its status then is what a shell says of it. */
static int collect(int command, int *status)
{
    int found = 0, ended;
    long pid;
    while ((pid = call(WAIT4, EVERYBODY, (long)&ended, WNOHANG, 0, 0)) > 0)
        if (command && pid == command) {
            int number = ended & 0x7f;
            *status = number ? 128 + number : ended >> 8 & 0xff;
            found = 1;
        }
    return found;
}

static int has_children(void)
{
    return call(WAITID, P_ALL, 0, 0, WEXITED | WNOHANG | WNOWAIT, 0) != -ECHILD;
}

/* To the command; to everybody once that has ended. Never to all processes of a host whose pid namespace the container
 * keeps: `first` says that we are PID 1 of our own. Nobody may be left to hear it, or be another user's in a container
 * without CAP_KILL: that is no failure of ours, whose end would be that of all. */
static void forward(int command, int first, long number)
{
    if (command)
        call(KILL, command, number, 0, 0, 0);
    else if (first)
        call(KILL, EVERYBODY, number, 0, 0, 0);
}

/* All signals are blocked already. */
static void live(const long *stack)
{
    const unsigned long every = ~0UL;
    int command = pid_in((const char *)stack[stack[0] + 2]);
    int idle = !command, status = 0, told = 0, first;

    /* Nobody inside may trace us. The exec has seen to that (see __init__.py), unless fs.suid_dumpable is 1. */
    call(PRCTL, PR_SET_DUMPABLE, 0, 0, 0, 0);
    call(PRCTL, PR_SET_NAME, (long)"lxc-init", 0, 0, 0);
    /* One of them is the channel to lxcd, which takes its end for ours: that we are what we are to be. */
    call(CLOSE_RANGE, 0, ~0U, 0, 0, 0);
    first = call(GETPID, 0, 0, 0, 0, 0) == 1;
    for (;;) {
        struct arrived arrived;
        /* signal(7): blocked signals reach even PID 1, whose default is to ignore them. */
        long number = call(RT_SIGTIMEDWAIT, (long)&every, (long)&arrived, 0, sizeof every, 0);
        if (number == -EINTR) /* stopped, and going on */
            continue;
        if (number < 0) /* a filter forbids it: better no container than one that spins */
            end(FAILED);
        if (number == SIGCHLD) {
            if (collect(command, &status)) {
                command = 0;
                /* It was asked to end, and has not told its children. */
                if (told)
                    forward(0, first, told);
            }
        } else if (arrived.pid == 0 || !first) {
            /* A sender of another pid namespace shows as 0 (pid_namespaces(7)); what those inside send each other is
             * theirs. */
            forward(command, first, number);
            if (number == SIGTERM || number == SIGINT || number == SIGQUIT || number == SIGPWR) {
                idle = 0;
                told = number;
            }
        }
        if (!idle && !has_children())
            end(status);
    }
}
