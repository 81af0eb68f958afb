/* Runs a program and counts its steps: the system calls that change files below one folder.
 *
 *   tracer LOG FOLDER N EFFECT PROGRAM ARGUMENT...
 *
 * LOG gets one line a step, when the call is over: its name, whether it worked, and the path or paths it was given.
 * When step N is about to be made, EFFECT happens instead: "kill" ends the program by SIGKILL, a number is the error
 * that the call gives without being made. N of 0 only counts. The exit status is the program's; 128 and the number of
 * the signal where a signal ended it; 125 where this program itself failed.
 *
 * ptrace sees every call, whether or not it is made through the C library. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_THREADS = 256, PATH_LEN = 4200 };

/* A call that is being made by one thread. */
struct thread {
    pid_t id;
    const char *name;
    char path[PATH_LEN], other[PATH_LEN];
    int inject;
};

static struct thread threads[MOST_THREADS];
static const char *folder;
static long step, target;
static int injected_error;
static FILE *log_file;

static void die(const char *what) {
    fprintf(stderr, "tracer: %s: %s\n", what, strerror(errno));
    exit(125);
}

static struct thread *thread_of(pid_t id) {
    struct thread *unused = NULL;
    for (int i = 0; i < MOST_THREADS; i++) {
        if (threads[i].id == id) return &threads[i];
        if (!unused && threads[i].id == 0) unused = &threads[i];
    }
    if (!unused) { errno = EAGAIN; die("threads"); }
    memset(unused, 0, sizeof *unused);
    unused->id = id;
    return unused;
}

/* The path of a descriptor; AT_FDCWD is the working directory. */
static void path_of(pid_t id, int descriptor, char *path) {
    char link[64];
    if (descriptor == AT_FDCWD) snprintf(link, sizeof link, "/proc/%d/cwd", id);
    else snprintf(link, sizeof link, "/proc/%d/fd/%d", id, descriptor);
    ssize_t len = readlink(link, path, PATH_LEN - 1);
    path[len > 0 ? len : 0] = 0;
}

/* A path argument, made absolute. */
static void path_at(pid_t id, int directory, uint64_t address, char *path) {
    char memory[64], given[PATH_MAX + 1];
    snprintf(memory, sizeof memory, "/proc/%d/mem", id);
    int file = open(memory, O_RDONLY | O_CLOEXEC);
    ssize_t len = file < 0 ? -1 : pread(file, given, PATH_MAX, (off_t)address);
    if (file >= 0) close(file);
    given[len > 0 ? len : 0] = 0;
    path[0] = 0;
    if (given[0] != '/') {
        path_of(id, directory, path);
        strncat(path, "/", PATH_LEN - strlen(path) - 1);
    }
    strncat(path, given, PATH_LEN - strlen(path) - 1);
}

/* What the call changes: its name, or NULL where it changes nothing that has a path. */
static const char *decode(pid_t id, const struct __ptrace_syscall_info *info, struct thread *call) {
    const uint64_t *a = info->entry.args;
    call->other[0] = 0;
    switch (info->entry.nr) {
    case SYS_write: case SYS_pwrite64: case SYS_writev: case SYS_pwritev: case SYS_pwritev2:
        return path_of(id, (int)a[0], call->path), "write";
    case SYS_ftruncate: return path_of(id, (int)a[0], call->path), "truncate";
    case SYS_fallocate: return path_of(id, (int)a[0], call->path), "reserve";
    case SYS_fchmod: return path_of(id, (int)a[0], call->path), "chmod";
    case SYS_fsync: case SYS_fdatasync: return path_of(id, (int)a[0], call->path), "sync";
    case SYS_sendfile: return path_of(id, (int)a[0], call->path), "write";
    case SYS_copy_file_range: return path_of(id, (int)a[2], call->path), "write";
    case SYS_openat:
        if (!(a[2] & (O_CREAT | O_TRUNC))) return NULL;
        return path_at(id, (int)a[0], a[1], call->path), "create";
    case SYS_mkdirat: return path_at(id, (int)a[0], a[1], call->path), "mkdir";
    case SYS_unlinkat: return path_at(id, (int)a[0], a[1], call->path), "remove";
    case SYS_symlinkat: return path_at(id, (int)a[1], a[2], call->path), "create";
    case SYS_renameat: case SYS_renameat2: case SYS_linkat:
        path_at(id, (int)a[0], a[1], call->path);
        path_at(id, (int)a[2], a[3], call->other);
        return info->entry.nr == SYS_linkat ? "link" : "rename";
#ifdef SYS_open
    case SYS_open:
        if (!(a[1] & (O_CREAT | O_TRUNC))) return NULL;
        return path_at(id, AT_FDCWD, a[0], call->path), "create";
    case SYS_creat: return path_at(id, AT_FDCWD, a[0], call->path), "create";
    case SYS_mkdir: return path_at(id, AT_FDCWD, a[0], call->path), "mkdir";
    case SYS_rmdir: case SYS_unlink: return path_at(id, AT_FDCWD, a[0], call->path), "remove";
    case SYS_rename: case SYS_link:
        path_at(id, AT_FDCWD, a[0], call->path);
        path_at(id, AT_FDCWD, a[1], call->other);
        return info->entry.nr == SYS_link ? "link" : "rename";
#endif
    default: return NULL;
    }
}

static void make_no_call(pid_t id) {
#if defined(__x86_64__)
    if (ptrace(PTRACE_POKEUSER, id, offsetof(struct user, regs.orig_rax), -1L) < 0) die("skip");
#else
    (void)id; errno = ENOSYS; die("errors are injected on x86-64 only");
#endif
}

static void give_error(pid_t id) {
#if defined(__x86_64__)
    if (ptrace(PTRACE_POKEUSER, id, offsetof(struct user, regs.rax), -(long)injected_error) < 0) die("error");
#else
    (void)id;
#endif
}

static int is_below(const char *path) {
    size_t len = strlen(folder);
    return strncmp(path, folder, len) == 0 && (path[len] == '/' || path[len] == 0);
}

/* A thread stands before or behind a system call. */
static void at_call(pid_t id, pid_t program) {
    struct __ptrace_syscall_info info;
    if (ptrace(PTRACE_GET_SYSCALL_INFO, id, sizeof info, &info) < 0) {
        if (errno == ESRCH) return;
        die("PTRACE_GET_SYSCALL_INFO");
    }
    struct thread *call = thread_of(id);
    if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
        call->name = decode(id, &info, call);
        if (!call->name || !is_below(call->other[0] ? call->other : call->path)) {
            call->name = NULL;
            return;
        }
        if (++step != target) return;
        fprintf(log_file, "%s instead %s %s\n", call->name, call->path, call->other);
        if (injected_error) {
            call->inject = 1;
            make_no_call(id);
        } else {
            kill(program, SIGKILL);
        }
    } else if (info.op == PTRACE_SYSCALL_INFO_EXIT && call->name) {
        if (call->inject) give_error(id);
        const char *outcome = call->inject || info.exit.is_error ? "failed" : "done";
        fprintf(log_file, "%s %s %s %s\n", call->name, outcome, call->path, call->other);
        call->name = NULL;
        call->inject = 0;
    }
}

int main(int argc, char **argv) {
    if (argc < 6) { errno = EINVAL; die("arguments"); }
    log_file = fopen(argv[1], "we");
    if (!log_file) die(argv[1]);
    folder = argv[2];
    target = atol(argv[3]);
    injected_error = strcmp(argv[4], "kill") == 0 ? 0 : atoi(argv[4]);
    pid_t program = fork();
    if (program < 0) die("fork");
    if (program == 0) {
        if (ptrace(PTRACE_TRACEME, 0, 0, 0) < 0) die("PTRACE_TRACEME");
        raise(SIGSTOP);
        execv(argv[5], argv + 5);
        die(argv[5]);
    }
    int status;
    if (waitpid(program, &status, 0) < 0 || !WIFSTOPPED(status)) die("start");
    long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
    if (ptrace(PTRACE_SETOPTIONS, program, 0, options) < 0) die("PTRACE_SETOPTIONS");
    if (ptrace(PTRACE_SYSCALL, program, 0, 0) < 0) die("PTRACE_SYSCALL");
    for (;;) {
        pid_t id = waitpid(-1, &status, __WALL);
        if (id < 0) die("wait");
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (id != program) { thread_of(id)->id = 0; continue; }
            fclose(log_file);
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
        int signal = WSTOPSIG(status), deliver = 0;
        if (signal == (SIGTRAP | 0x80)) at_call(id, program);
        /* A new thread begins with a stop of its own; events carry a number above the signal. */
        else if (status >> 16 == 0 && signal != SIGSTOP && signal != SIGTRAP) deliver = signal;
        if (ptrace(PTRACE_SYSCALL, id, 0, deliver) < 0 && errno != ESRCH) die("go on");
    }
}
