/*
 * The machines: numbers of system calls, how one is made, and where a program begins. The kernel's ABI, spelled out so
 * that a compiler is all that `generate.py` needs. SPDX-License-Identifier: Apache-2.0
 */

#if defined(__x86_64__)
enum {
    READ = 0, CLOSE = 3, LSEEK = 8, MMAP = 9, RT_SIGACTION = 13, RT_SIGPROCMASK = 14, IOCTL = 16, PWRITE = 18, GETPID = 39,
    SOCKET = 41, SENDMSG = 46, RECVMSG = 47, WAIT4 = 61, KILL = 62, FCNTL = 72, CAPGET = 125, CAPSET = 126,
    RT_SIGTIMEDWAIT = 128, PRCTL = 157, EXIT_GROUP = 231, WAITID = 247, DUP3 = 292, WRITE = 1, EXECVEAT = 322, WRITEV = 20
};
#elif defined(__aarch64__)
enum {
    READ = 63, CLOSE = 57, LSEEK = 62, MMAP = 222, RT_SIGACTION = 134, RT_SIGPROCMASK = 135, IOCTL = 29, PWRITE = 68, GETPID = 172,
    SOCKET = 198, SENDMSG = 211, RECVMSG = 212, WAIT4 = 260, KILL = 129, FCNTL = 25, CAPGET = 90, CAPSET = 91,
    RT_SIGTIMEDWAIT = 137, PRCTL = 167, EXIT_GROUP = 94, WAITID = 95, DUP3 = 24, WRITE = 64, EXECVEAT = 281, WRITEV = 66
};
#else
#error "generate.py knows no such machine"
#endif
/* The same everywhere. */
enum { PIDFD_SEND_SIGNAL = 424, FSCONFIG = 431, CLONE3 = 435, CLOSE_RANGE = 436, OPENAT2 = 437 };

enum { PR_SET_DUMPABLE = 4, PR_SET_NAME = 15, PR_CAP_AMBIENT = 47 };
enum { PR_CAP_AMBIENT_RAISE = 2, PR_CAP_AMBIENT_CLEAR_ALL = 4 };
enum { SIGINT = 2, SIGQUIT = 3, SIGKILL = 9, SIGTERM = 15, SIGCHLD = 17, SIGPWR = 30 };
enum { EINTR = 4, ECHILD = 10, EAGAIN = 11, EIO = 5, EPROTO = 71 };
enum { CAPABILITY_VERSION_3 = 0x20080522 };

struct capability_header {
    unsigned version;
    int pid;
};

/* Of 32 capabilities; there are two. */
struct capability_sets {
    unsigned effective, permitted, inheritable;
};

static inline __attribute__((always_inline)) long call6(long number, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
#else
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory", "cc");
    return x0;
#endif
}

#ifdef PROGRAM
static long call(long number, long a, long b, long c, long d, long e)
{
    return call6(number, a, b, c, d, e, 0);
}

__attribute__((noreturn)) static void end(int status)
{
    for (;;)
        call(EXIT_GROUP, status, 0, 0, 0, 0);
}

/* `stack` is as the kernel leaves it: argc, argv, 0, the environment, 0. */
__attribute__((noreturn, used)) static void live(const long *stack);

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall live\n");
#else
__asm__(".globl _start\n_start:\n\tmov x29, xzr\n\tmov x30, xzr\n\tmov x0, sp\n\tb live\n");
#endif
#endif
