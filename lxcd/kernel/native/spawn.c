/*
 * How the keeper makes a child that is a program of its own from its first instruction on: a vfork with namespaces.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Called from the keeper, and run on its stack by both, one after the other: the child has the keeper's memory until
 * it has exec'ed, and the keeper waits for that (CLONE_VM, CLONE_VFORK; clone(2)). Position-independent, without data.
 */
#include "machine.h"

enum { F_SETFD = 2, AT_EMPTY_PATH = 0x1000, LAST_CAPABILITY = 63 };

/*
 * arguments  of clone3(2), with their size
 * open       what the child leaves open over the exec, ended by -1
 * program    a descriptor
 * words      argv, ended by a null pointer; so is `none`, and an empty string begins there
 * keep       the child sits in a new user namespace as nobody: it would lose its capabilities by the exec
 * failure    what the exec has failed with is left here
 */
long spawn(const void *arguments, long size, const int *open, long program, const char *const *words,
           const char *const *none, long keep, volatile int *failure)
{
    long pid = call6(CLONE3, (long)arguments, size, 0, 0, 0, 0);
    if (pid)
        return pid;
    for (; *open >= 0; open++)
        call6(FCNTL, *open, F_SETFD, 0, 0, 0, 0);
    if (keep) {
        struct capability_header header;
        volatile struct capability_sets sets[2];
        int number;
        header.version = CAPABILITY_VERSION_3;
        header.pid = 0;
        call6(CAPGET, (long)&header, (long)sets, 0, 0, 0, 0);
        for (number = 0; number < 2; number++)
            sets[number].inheritable = sets[number].permitted;
        call6(CAPSET, (long)&header, (long)sets, 0, 0, 0, 0);
        for (number = 0; number <= LAST_CAPABILITY; number++)
            call6(PRCTL, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0, 0);
    }
    *failure = -call6(EXECVEAT, program, (long)none, (long)words, (long)none, AT_EMPTY_PATH, 0);
    for (;;)
        call6(EXIT_GROUP, 127, 0, 0, 0, 0, 0);
}
