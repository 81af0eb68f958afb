/* Loaded before libc: the function that HANGS_IN names makes the file HANGS_MARK and never returns. What a name server
 * or a file server that is gone does to a caller, which no signal handler of Rust's interrupts. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

struct addrinfo;

static void hang_in(const char *function) {
    const char *wanted = getenv("HANGS_IN"), *mark = getenv("HANGS_MARK");
    if (!wanted || !mark || strcmp(wanted, function)) return;
    close(open(mark, O_CREAT | O_WRONLY, 0600));
    for (;;) pause();
}

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **result) {
    hang_in("getaddrinfo");
    int (*next)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
        dlsym(RTLD_NEXT, "getaddrinfo");
    return next(host, service, hints, result);
}

ssize_t pwrite64(int file, const void *bytes, size_t len, off64_t offset) {
    hang_in("pwrite64");
    ssize_t (*next)(int, const void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pwrite64");
    return next(file, bytes, len, offset);
}

int fsync(int file) {
    hang_in("fsync");
    int (*next)(int) = dlsym(RTLD_NEXT, "fsync");
    return next(file);
}
