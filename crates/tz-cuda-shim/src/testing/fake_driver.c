/* A CUDA driver in host memory, for tests: enough of the driver API to allocate, copy and wait.
 *
 * Work on a stream waits in a queue. A query runs one piece of it, so that completion is late and out of the order
 * between streams; synchronising runs all of it. Every call that needs a context fails without one, every address is
 * checked against what was allocated, and what is still alive when the process ends is reported.
 *
 * Environment:
 *   FAKE_CUDA_DEVICES=N        devices (default 2)
 *   FAKE_CUDA_MEMORY=N         bytes of each device (default 256 MiB)
 *   FAKE_CUDA_PINNED=N         bytes that can be pinned (default 256 MiB)
 *   FAKE_CUDA_FAIL=F:C[:N],…   function F returns code C, from its Nth call on if N is given (default 1)
 *   FAKE_CUDA_REPORT=PATH      where to write what was still alive
 * Compiled with -DWITHOUT_MEM_GET_INFO, cuMemGetInfo_v2 is missing. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_DEVICE = 101,
       INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_READY = 600, ILLEGAL_ADDRESS = 700 };
enum { MAX_DEVICES = 8, MAX_BLOCKS = 65536, MAX_RULES = 8, ALIGNMENT = 512 };

typedef unsigned long long address;
typedef struct op { struct op *next; void *to; const void *from; int value; size_t bytes; } op;
typedef struct stream { struct stream *next; op *first, **last; size_t queued, done; int device; } stream;
typedef struct event { stream *on; size_t after; } event;
typedef struct block { char *start; size_t bytes; int device; } block; /* device -1: pinned */
typedef struct rule { char function[64]; int code; long first; long calls; } rule;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread int current = -1;
static int initialised, devices = 2, retained[MAX_DEVICES];
static size_t memory = 256u << 20, pinnable = 256u << 20, used[MAX_DEVICES], pinned, streams, events;
static block blocks[MAX_BLOCKS];
static stream *all_streams;
static rule rules[MAX_RULES];
static int rule_count;

static size_t number(const char *name, size_t otherwise) {
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : otherwise;
}

__attribute__((constructor)) static void configure(void) {
    devices = (int)number("FAKE_CUDA_DEVICES", 2);
    memory = number("FAKE_CUDA_MEMORY", memory);
    pinnable = number("FAKE_CUDA_PINNED", pinnable);
    const char *text = getenv("FAKE_CUDA_FAIL");
    char *copy = text ? strdup(text) : NULL, *rest = NULL;
    for (char *part = copy ? strtok_r(copy, ",", &rest) : NULL; part && rule_count < MAX_RULES;
         part = strtok_r(NULL, ",", &rest)) {
        rule *r = &rules[rule_count];
        r->first = 1;
        if (sscanf(part, "%63[^:]:%d:%ld", r->function, &r->code, &r->first) >= 2) rule_count++;
    }
    free(copy);
}

__attribute__((destructor)) static void report(void) {
    const char *path = getenv("FAKE_CUDA_REPORT");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file) return;
    size_t device_bytes = 0, contexts = 0;
    for (int i = 0; i < MAX_DEVICES; i++) device_bytes += used[i], contexts += (size_t)retained[i];
    fprintf(file, "device_bytes=%zu pinned_bytes=%zu streams=%zu events=%zu contexts=%zu", device_bytes, pinned,
            streams, events, contexts);
    fclose(file);
}

/* The code that a rule prescribes for this call, or -1. */
static int ruled(const char *function) {
    for (int i = 0; i < rule_count; i++)
        if (!strcmp(rules[i].function, function) && ++rules[i].calls >= rules[i].first) return rules[i].code;
    return -1;
}

static void finish(int result) { (void)result; pthread_mutex_unlock(&lock); }

/* Opens a function: takes the lock, applies rules, then the body computes `result`. */
#define BEGIN(name) pthread_mutex_lock(&lock); int result = ruled(name); if (result < 0) { result = SUCCESS; do {
#define END } while (0); } finish(result); return result
#define REQUIRE(condition, code) if (!(condition)) { result = code; break; }
#define REQUIRE_CONTEXT REQUIRE(current >= 0, INVALID_CONTEXT)

static int covered(const void *start, size_t bytes, int on_device) {
    for (size_t i = 0; i < MAX_BLOCKS; i++) {
        block *b = &blocks[i];
        if (b->start && (b->device >= 0) == on_device && (char *)start >= b->start
            && (char *)start + bytes <= b->start + b->bytes) return 1;
    }
    return bytes == 0;
}

static int run_one(stream *s) {
    op *o = s->first;
    if (!o) return 0;
    if (o->from) memcpy(o->to, o->from, o->bytes);
    else if (o->bytes) memset(o->to, o->value, o->bytes);
    s->first = o->next;
    if (!s->first) s->last = &s->first;
    s->done++;
    free(o);
    return 1;
}

static void drain_all(void) {
    for (stream *s = all_streams; s; s = s->next) while (run_one(s)) {}
}

static void queue(stream *s, void *to, const void *from, int value, size_t bytes) {
    op *o = calloc(1, sizeof *o);
    o->to = to, o->from = from, o->value = value, o->bytes = bytes;
    *s->last = o;
    s->last = &o->next;
    s->queued++;
}

static void *take(size_t bytes, int device) {
    for (size_t i = 0; i < MAX_BLOCKS; i++) {
        if (blocks[i].start) continue;
        size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        char *start = aligned_alloc(ALIGNMENT, rounded);
        if (!start) return NULL;
        memset(start, 0xA5, rounded); /* fresh memory is not zero */
        blocks[i] = (block){start, bytes, device};
        return start;
    }
    return NULL;
}

static size_t drop(void *start, int on_device, int *device) {
    for (size_t i = 0; i < MAX_BLOCKS; i++) {
        block *b = &blocks[i];
        if (!start || b->start != start || (b->device >= 0) != on_device) continue;
        drain_all(); /* freeing waits for the device, as the real driver does */
        size_t bytes = b->bytes;
        *device = b->device;
        free(b->start);
        *b = (block){0};
        return bytes;
    }
    return 0;
}

int cuInit(unsigned flags) { BEGIN("cuInit") (void)flags; initialised = 1; END; }
int cuDriverGetVersion(int *version) { BEGIN("cuDriverGetVersion") *version = 13000; END; }
int cuDeviceGetCount(int *count) {
    BEGIN("cuDeviceGetCount") REQUIRE(initialised, NOT_INITIALIZED) *count = devices; END;
}
int cuDeviceGet(int *device, int ordinal) {
    BEGIN("cuDeviceGet") REQUIRE(initialised, NOT_INITIALIZED)
    REQUIRE(ordinal >= 0 && ordinal < devices, INVALID_DEVICE) *device = ordinal; END;
}
int cuDeviceGetName(char *name, int len, int device) {
    BEGIN("cuDeviceGetName") snprintf(name, (size_t)len, "Fake GPU %d", device); END;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    BEGIN("cuDeviceGetAttribute") (void)device; *value = attribute == 75 ? 9 : 1; END;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    BEGIN("cuDeviceTotalMem_v2") (void)device; *bytes = memory; END;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    BEGIN("cuDevicePrimaryCtxRetain") retained[device]++; *context = &retained[device]; END;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
    BEGIN("cuDevicePrimaryCtxRelease_v2") REQUIRE(retained[device] > 0, INVALID_CONTEXT)
    if (--retained[device] == 0) drain_all(); END;
}
int cuCtxSetCurrent(void *context) {
    BEGIN("cuCtxSetCurrent") current = context ? (int)((int *)context - retained) : -1; END;
}
int cuCtxGetCurrent(void **context) {
    BEGIN("cuCtxGetCurrent") *context = current >= 0 ? &retained[current] : NULL; END;
}
int cuCtxSynchronize(void) { BEGIN("cuCtxSynchronize") REQUIRE_CONTEXT drain_all(); END; }

#ifndef WITHOUT_MEM_GET_INFO
int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    BEGIN("cuMemGetInfo_v2") REQUIRE_CONTEXT *free_bytes = memory - used[current]; *total = memory; END;
}
#endif
int cuMemAlloc_v2(address *out, size_t bytes) {
    BEGIN("cuMemAlloc_v2") REQUIRE_CONTEXT REQUIRE(bytes > 0, INVALID_VALUE)
    REQUIRE(bytes <= memory - used[current], OUT_OF_MEMORY)
    void *start = take(bytes, current);
    REQUIRE(start, OUT_OF_MEMORY) used[current] += bytes; *out = (address)start; END;
}
int cuMemFree_v2(address start) {
    BEGIN("cuMemFree_v2") REQUIRE_CONTEXT int device = 0; size_t bytes = drop((void *)start, 1, &device);
    REQUIRE(bytes, INVALID_VALUE) used[device] -= bytes; END;
}
int cuMemAllocHost_v2(void **out, size_t bytes) {
    BEGIN("cuMemAllocHost_v2") REQUIRE_CONTEXT REQUIRE(bytes > 0, INVALID_VALUE)
    REQUIRE(bytes <= pinnable - pinned, OUT_OF_MEMORY)
    *out = take(bytes, -1);
    REQUIRE(*out, OUT_OF_MEMORY) pinned += bytes; END;
}
int cuMemFreeHost(void *start) {
    BEGIN("cuMemFreeHost") REQUIRE_CONTEXT int device = 0; size_t bytes = drop(start, 0, &device);
    REQUIRE(bytes, INVALID_VALUE) pinned -= bytes; END;
}
int cuMemHostRegister_v2(void *start, size_t bytes, unsigned flags) {
    BEGIN("cuMemHostRegister_v2") (void)start, (void)flags; REQUIRE_CONTEXT REQUIRE(bytes > 0, INVALID_VALUE) END;
}
int cuMemHostUnregister(void *start) {
    BEGIN("cuMemHostUnregister") (void)start; REQUIRE_CONTEXT drain_all(); END;
}

int cuStreamCreateWithPriority(stream **out, unsigned flags, int priority) {
    BEGIN("cuStreamCreateWithPriority") (void)flags, (void)priority; REQUIRE_CONTEXT
    stream *s = calloc(1, sizeof *s);
    s->last = &s->first, s->device = current, s->next = all_streams, all_streams = s, streams++, *out = s; END;
}
int cuStreamDestroy_v2(stream *s) {
    BEGIN("cuStreamDestroy_v2") REQUIRE_CONTEXT REQUIRE(s, INVALID_HANDLE)
    while (run_one(s)) {}
    for (stream **p = &all_streams; *p; p = &(*p)->next) if (*p == s) { *p = s->next; break; }
    /* events may still point at it: keep the memory, as a driver keeps its own */
    streams--; END;
}
int cuStreamSynchronize(stream *s) {
    BEGIN("cuStreamSynchronize") REQUIRE_CONTEXT REQUIRE(s, INVALID_HANDLE) while (run_one(s)) {} END;
}
int cuStreamQuery(stream *s) {
    BEGIN("cuStreamQuery") REQUIRE_CONTEXT run_one(s); REQUIRE(!s->first, NOT_READY) END;
}

int cuEventCreate(event **out, unsigned flags) {
    BEGIN("cuEventCreate") (void)flags; REQUIRE_CONTEXT *out = calloc(1, sizeof(event)); events++; END;
}
int cuEventDestroy_v2(event *e) {
    BEGIN("cuEventDestroy_v2") REQUIRE_CONTEXT REQUIRE(e, INVALID_HANDLE) free(e); events--; END;
}
int cuEventRecord(event *e, stream *s) {
    BEGIN("cuEventRecord") REQUIRE_CONTEXT REQUIRE(e && s, INVALID_HANDLE)
    REQUIRE(s->device == current, INVALID_HANDLE) e->on = s; e->after = s->queued; END;
}
int cuEventQuery(event *e) {
    BEGIN("cuEventQuery") REQUIRE_CONTEXT REQUIRE(e, INVALID_HANDLE)
    if (e->on && e->on->done < e->after) run_one(e->on);
    REQUIRE(!e->on || e->on->done >= e->after, NOT_READY) END;
}
int cuEventSynchronize(event *e) {
    BEGIN("cuEventSynchronize") REQUIRE_CONTEXT while (e->on && e->on->done < e->after) run_one(e->on); END;
}
int cuEventElapsedTime(float *ms, event *a, event *b) {
    BEGIN("cuEventElapsedTime") (void)a, (void)b; *ms = 1; END;
}

int cuMemcpyHtoDAsync_v2(address to, const void *from, size_t bytes, stream *s) {
    BEGIN("cuMemcpyHtoDAsync_v2") REQUIRE_CONTEXT REQUIRE(s && s->device == current, INVALID_HANDLE)
    REQUIRE(covered((void *)to, bytes, 1), ILLEGAL_ADDRESS)
    if (covered(from, bytes, 0)) {
        queue(s, (void *)to, from, 0, bytes);
    } else { /* pageable memory is read before the call returns */
        while (run_one(s)) {}
        memcpy((void *)to, from, bytes);
    } END;
}
int cuMemcpyHtoD_v2(address to, const void *from, size_t bytes) {
    BEGIN("cuMemcpyHtoD_v2") REQUIRE_CONTEXT REQUIRE(covered((void *)to, bytes, 1), ILLEGAL_ADDRESS)
    memcpy((void *)to, from, bytes); END;
}
int cuMemcpyDtoH_v2(void *to, address from, size_t bytes) {
    BEGIN("cuMemcpyDtoH_v2") REQUIRE_CONTEXT REQUIRE(covered((void *)from, bytes, 1), ILLEGAL_ADDRESS)
    memcpy(to, (void *)from, bytes); END;
}
int cuMemsetD8Async(address to, unsigned char value, size_t bytes, stream *s) {
    BEGIN("cuMemsetD8Async") REQUIRE_CONTEXT REQUIRE(covered((void *)to, bytes, 1), ILLEGAL_ADDRESS)
    queue(s, (void *)to, NULL, value, bytes); END;
}

int cuGetErrorName(int code, const char **name) {
    *name = code == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY"
        : code == 302 ? "CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND"
        : code == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : NULL;
    return *name ? SUCCESS : INVALID_VALUE;
}
int cuGetErrorString(int code, const char **text) {
    *text = code == OUT_OF_MEMORY ? "out of memory" : code == ILLEGAL_ADDRESS ? "an illegal address" : NULL;
    return *text ? SUCCESS : INVALID_VALUE;
}
