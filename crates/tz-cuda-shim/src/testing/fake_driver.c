/* A CUDA driver in host memory, for tests: enough of the driver API to allocate, copy and wait.
 *
 * Work on a stream waits in a queue. A query runs one piece of it, so that completion is late and out of the order
 * between streams; synchronising runs all of it. Every call that needs a context fails without one, every address is
 * checked against what was allocated, and what is still alive when the process ends is reported.
 *
 * As a real driver does:
 *   - the last release of a primary context ends it: its memory is gone, and threads that still have it current
 *     get code 709;
 *   - streams without the flag 1 wait for work on the legacy stream (handles 0 and 1);
 *   - while a capture in the global mode is going on, calls that a capture forbids fail with code 900 and end the
 *     capture, unless the calling thread has exchanged its mode for the relaxed one;
 *   - a child of fork gets code 3 from every call.
 *
 * Environment:
 *   FAKE_CUDA_DEVICES=N        devices (default 2)
 *   FAKE_CUDA_MEMORY=N         bytes of each device (default 256 MiB)
 *   FAKE_CUDA_PINNED=N         bytes that can be pinned (default 256 MiB)
 *   FAKE_CUDA_FAIL=F:C[:N],…   function F returns code C, from its Nth call on if N is given (default 1)
 *   FAKE_CUDA_SLOW=F:MS,…      function F takes that many milliseconds longer
 *   FAKE_CUDA_ATTRIBUTE=A:V,…  attribute A of every device is V
 *   FAKE_CUDA_REPORT=PATH      where to write what was still alive
 * Compiled with -DWITHOUT_MEM_GET_INFO, cuMemGetInfo_v2 is missing. Tests of the same process ask `fake_cuda`. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_DEVICE = 101,
       INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_READY = 600, ILLEGAL_ADDRESS = 700,
       CONTEXT_IS_DESTROYED = 709, ALREADY_REGISTERED = 712, NOT_SUPPORTED = 801, CAPTURE_UNSUPPORTED = 900 };
enum { MAX_DEVICES = 8, MAX_BLOCKS = 65536, MAX_RULES = 8, MAX_FUNCTIONS = 128, ALIGNMENT = 512, PAGE = 4096 };
enum { NON_BLOCKING = 1, READ_ONLY = 8, RELAXED = 2, HOST_REGISTER_READ_ONLY_SUPPORTED = 113 };
enum { PINNED = -1, REGISTERED = -2 };

typedef unsigned long long address;
typedef struct stream stream;
/* A copy, a fill, or a wait for another stream; it runs after `steps` looks at its stream. */
typedef struct op {
    struct op *next; void *to; const void *from; int value; size_t bytes; long steps; stream *awaited; size_t after;
} op;
struct stream { stream *next; op *first, **last; size_t queued, done; int device; unsigned flags; };
typedef struct event { stream *on; size_t after; } event;
typedef struct block { char *start; size_t bytes; int device; } block; /* device below 0: of the host */
typedef struct rule { char name[64]; int value; long first; long calls; } rule;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread int current = -1, capture_mode;
static __thread long current_life;
static int initialised, devices = 2, retained[MAX_DEVICES], capturing;
static pid_t process;
static long life[MAX_DEVICES], invalidated, fenced, early;
static size_t memory = 256u << 20, pinnable = 256u << 20, used[MAX_DEVICES], pinned, streams, events;
static block blocks[MAX_BLOCKS];
static size_t block_count;
static stream *all_streams, legacy[MAX_DEVICES];
static rule rules[MAX_RULES], slow[MAX_RULES], attributes[MAX_RULES], functions[MAX_FUNCTIONS];
static int rule_count, slow_count, attribute_count, function_count;

static size_t number(const char *name, size_t otherwise) {
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : otherwise;
}

static int parse(const char *variable, rule *into) {
    const char *text = getenv(variable);
    char *copy = text ? strdup(text) : NULL, *rest = NULL;
    int count = 0;
    for (char *part = copy ? strtok_r(copy, ",", &rest) : NULL; part && count < MAX_RULES;
         part = strtok_r(NULL, ",", &rest)) {
        rule *r = &into[count];
        r->first = 1;
        if (sscanf(part, "%63[^:]:%d:%ld", r->name, &r->value, &r->first) >= 2) count++;
    }
    free(copy);
    return count;
}

__attribute__((constructor)) static void configure(void) {
    devices = (int)number("FAKE_CUDA_DEVICES", 2);
    memory = number("FAKE_CUDA_MEMORY", memory);
    pinnable = number("FAKE_CUDA_PINNED", pinnable);
    rule_count = parse("FAKE_CUDA_FAIL", rules);
    slow_count = parse("FAKE_CUDA_SLOW", slow);
    attribute_count = parse("FAKE_CUDA_ATTRIBUTE", attributes);
    for (int i = 0; i < MAX_DEVICES; i++) legacy[i].last = &legacy[i].first, legacy[i].device = i;
}

__attribute__((destructor)) static void report(void) {
    const char *path = getenv("FAKE_CUDA_REPORT");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file) return;
    size_t device_bytes = 0, registered = 0;
    for (int i = 0; i < MAX_DEVICES; i++) device_bytes += used[i];
    for (size_t i = 0; i < block_count; i++) registered += blocks[i].start && blocks[i].device == REGISTERED;
    /* Primary contexts are not counted: who shares them with others keeps them until the process ends. */
    fprintf(file, "device_bytes=%zu pinned_bytes=%zu registered=%zu streams=%zu events=%zu freed_too_early=%ld",
            device_bytes, pinned, registered, streams, events, early);
    fclose(file);
}

static rule *find(rule *in, int count, const char *name) {
    for (int i = 0; i < count; i++) if (!strcmp(in[i].name, name)) return &in[i];
    return NULL;
}

/* Counts the call; gives the code that a rule prescribes for it, or -1. */
static int enter(const char *function) {
    rule *s = find(slow, slow_count, function);
    if (s) usleep((useconds_t)s->value * 1000);
    pthread_mutex_lock(&lock);
    rule *f = find(functions, function_count, function);
    if (!f && function_count < MAX_FUNCTIONS) {
        f = &functions[function_count++];
        strncpy(f->name, function, sizeof f->name - 1);
    }
    if (f) f->calls++;
    if (initialised && process != getpid()) return NOT_INITIALIZED;
    rule *r = find(rules, rule_count, function);
    return r && ++r->calls >= r->first ? r->value : -1;
}

static void finish(int result) { (void)result; pthread_mutex_unlock(&lock); }

/* Opens a function: takes the lock, applies rules, then the body computes `result`. */
#define BEGIN(name) int result = enter(name); if (result < 0) { result = SUCCESS; do {
#define END } while (0); } finish(result); return result
#define REQUIRE(condition, code) if (!(condition)) { result = code; break; }
#define REQUIRE_CONTEXT REQUIRE(current >= 0, INVALID_CONTEXT) \
    REQUIRE(current_life == life[current], CONTEXT_IS_DESTROYED)
/* For what a capture in another thread's global mode forbids. */
#define REQUIRE_NO_CAPTURE if (capturing && capture_mode != RELAXED) \
    { invalidated++; result = CAPTURE_UNSUPPORTED; break; }

static int covered(const void *start, size_t bytes, int on_device) {
    for (size_t i = 0; i < block_count; i++) {
        block *b = &blocks[i];
        if (b->start && (b->device >= 0) == on_device && (char *)start >= b->start
            && (char *)start + bytes <= b->start + b->bytes) return 1;
    }
    return bytes == 0;
}

static int overlaps(const void *start, size_t bytes, const void *other, size_t others) {
    return (const char *)start < (const char *)other + others && (const char *)other < (const char *)start + bytes;
}

static stream *handle(stream *s) {
    return (size_t)s > 2 ? s : &legacy[current];
}

/* Lets the stream take a step; 0 once it has nothing left. */
static int run_one(stream *s) {
    op *o = s->first;
    if (!o) return 0;
    stream *fence = &legacy[s->device];
    if (s != fence && !(s->flags & NON_BLOCKING) && fence->first) { fenced++; return run_one(fence); }
    if (o->awaited && o->awaited->done < o->after) return run_one(o->awaited);
    if (o->steps > 0) { o->steps--; return 1; }
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
    for (int i = 0; i < MAX_DEVICES; i++) while (run_one(&legacy[i])) {}
}

/* Waiting for the legacy stream; who waits for work of others on it is noted. */
static void drain_legacy(void) {
    fenced += legacy[current].first != NULL;
    while (run_one(&legacy[current])) {}
}

static op *queue(stream *s, void *to, const void *from, int value, size_t bytes) {
    op *o = calloc(1, sizeof *o);
    o->to = to, o->from = from, o->value = value, o->bytes = bytes;
    *s->last = o;
    s->last = &o->next;
    s->queued++;
    return o;
}

static void insert(char *start, size_t bytes, int device) {
    size_t i = 0;
    while (i < block_count && blocks[i].start) i++;
    if (i == MAX_BLOCKS) abort();
    if (i == block_count) block_count++;
    blocks[i] = (block){start, bytes, device};
}

static void *take(size_t bytes, int device) {
    size_t alignment = device == PINNED ? PAGE : ALIGNMENT;
    size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    char *start = aligned_alloc(alignment, rounded);
    if (!start) return NULL;
    memset(start, 0xA5, rounded); /* fresh memory is not zero */
    insert(start, bytes, device);
    return start;
}

/* Notes work that still reads host memory which is about to go. */
static void watch(const char *start, size_t bytes) {
    for (stream *s = all_streams; s; s = s->next)
        for (op *o = s->first; o; o = o->next) early += o->from && overlaps(o->from, o->bytes, start, bytes);
}

static size_t drop(void *start, int kind, int *device) {
    for (size_t i = 0; i < block_count; i++) {
        block *b = &blocks[i];
        if (!start || b->start != start || (kind < 0 ? b->device != kind : b->device < 0)) continue;
        if (kind < 0) watch(b->start, b->bytes);
        drain_all(); /* freeing waits for the device, as the real driver does */
        size_t bytes = b->bytes;
        *device = b->device;
        if (kind != REGISTERED) free(b->start);
        *b = (block){0};
        return bytes;
    }
    return 0;
}

/* The last release of a context: what was allocated in it goes with it. */
static void end_context(int device) {
    drain_all();
    life[device]++;
    used[device] = 0;
    for (size_t i = 0; i < block_count; i++) {
        if (!blocks[i].start || blocks[i].device != device) continue;
        free(blocks[i].start);
        blocks[i] = (block){0};
    }
}

/* Whether the process may write to the page of this address. */
static int writable(const void *start) {
    FILE *maps = fopen("/proc/self/maps", "r");
    unsigned long from, to;
    char rights[5] = "", line[512];
    int found = 0;
    while (maps && !found && fgets(line, sizeof line, maps))
        found = sscanf(line, "%lx-%lx %4s", &from, &to, rights) == 3 && from <= (size_t)start && (size_t)start < to;
    if (maps) fclose(maps);
    return found && rights[1] == 'w';
}

int cuInit(unsigned flags) { BEGIN("cuInit") (void)flags; initialised = 1; process = getpid(); END; }
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
    BEGIN("cuDeviceGetAttribute") (void)device; char name[16]; snprintf(name, sizeof name, "%d", attribute);
    rule *a = find(attributes, attribute_count, name); *value = a ? a->value : attribute == 75 ? 9 : 1; END;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    BEGIN("cuDeviceTotalMem_v2") (void)device; *bytes = memory; END;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    BEGIN("cuDevicePrimaryCtxRetain") retained[device]++; *context = &retained[device]; END;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
    BEGIN("cuDevicePrimaryCtxRelease_v2") REQUIRE(retained[device] > 0, INVALID_CONTEXT)
    if (--retained[device] == 0) end_context(device); END;
}
int cuCtxSetCurrent(void *context) {
    BEGIN("cuCtxSetCurrent") int device = context ? (int)((int *)context - retained) : -1;
    REQUIRE(device < 0 || retained[device] > 0, INVALID_CONTEXT)
    current = device; current_life = device < 0 ? 0 : life[device]; END;
}
int cuCtxGetCurrent(void **context) {
    BEGIN("cuCtxGetCurrent") *context = current >= 0 ? &retained[current] : NULL; END;
}
int cuCtxGetDevice(int *device) { BEGIN("cuCtxGetDevice") REQUIRE_CONTEXT *device = current; END; }
int cuCtxSynchronize(void) {
    BEGIN("cuCtxSynchronize") REQUIRE_CONTEXT
    if (capturing) { invalidated++; result = CAPTURE_UNSUPPORTED; break; }
    drain_legacy(); drain_all(); END;
}
int cuThreadExchangeStreamCaptureMode(int *mode) {
    BEGIN("cuThreadExchangeStreamCaptureMode") REQUIRE(*mode >= 0 && *mode <= RELAXED, INVALID_VALUE)
    int before = capture_mode; capture_mode = *mode; *mode = before; END;
}

#ifndef WITHOUT_MEM_GET_INFO
int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    BEGIN("cuMemGetInfo_v2") REQUIRE_CONTEXT *free_bytes = memory - used[current]; *total = memory; END;
}
#endif
int cuMemAlloc_v2(address *out, size_t bytes) {
    BEGIN("cuMemAlloc_v2") REQUIRE_CONTEXT REQUIRE_NO_CAPTURE REQUIRE(bytes > 0, INVALID_VALUE)
    REQUIRE(bytes <= memory - used[current], OUT_OF_MEMORY)
    void *start = take(bytes, current);
    REQUIRE(start, OUT_OF_MEMORY) used[current] += bytes; *out = (address)start; END;
}
int cuMemFree_v2(address start) {
    BEGIN("cuMemFree_v2") REQUIRE_CONTEXT REQUIRE_NO_CAPTURE
    int device = 0; size_t bytes = drop((void *)start, 0, &device);
    REQUIRE(bytes, INVALID_VALUE) used[device] -= bytes; END;
}
int cuMemAllocHost_v2(void **out, size_t bytes) {
    BEGIN("cuMemAllocHost_v2") REQUIRE_CONTEXT REQUIRE_NO_CAPTURE REQUIRE(bytes > 0, INVALID_VALUE)
    REQUIRE(bytes <= pinnable - pinned, OUT_OF_MEMORY)
    *out = take(bytes, PINNED);
    REQUIRE(*out, OUT_OF_MEMORY) pinned += bytes; END;
}
int cuMemFreeHost(void *start) {
    BEGIN("cuMemFreeHost") REQUIRE_CONTEXT REQUIRE_NO_CAPTURE
    int device = 0; size_t bytes = drop(start, PINNED, &device);
    REQUIRE(bytes, INVALID_VALUE) pinned -= bytes; END;
}
int cuMemHostRegister_v2(void *start, size_t bytes, unsigned flags) {
    BEGIN("cuMemHostRegister_v2") REQUIRE_CONTEXT REQUIRE_NO_CAPTURE
    REQUIRE(bytes > 0 && (size_t)start % PAGE == 0 && bytes % PAGE == 0, INVALID_VALUE)
    rule *a = find(attributes, attribute_count, "113");
    REQUIRE(!(flags & READ_ONLY) || !a || a->value, NOT_SUPPORTED)
    REQUIRE((flags & READ_ONLY) || writable(start), INVALID_VALUE)
    REQUIRE(bytes <= pinnable - pinned, OUT_OF_MEMORY)
    for (size_t i = 0; i < block_count && !result; i++)
        if (blocks[i].start && blocks[i].device < 0 && overlaps(start, bytes, blocks[i].start, blocks[i].bytes))
            result = ALREADY_REGISTERED;
    if (!result) insert(start, bytes, REGISTERED), pinned += bytes; END;
}
int cuMemHostUnregister(void *start) {
    BEGIN("cuMemHostUnregister") REQUIRE_CONTEXT REQUIRE_NO_CAPTURE
    int device = 0; size_t bytes = drop(start, REGISTERED, &device);
    REQUIRE(bytes, INVALID_VALUE) pinned -= bytes; END;
}

int cuStreamCreateWithPriority(stream **out, unsigned flags, int priority) {
    BEGIN("cuStreamCreateWithPriority") (void)priority; REQUIRE_CONTEXT
    stream *s = calloc(1, sizeof *s);
    s->last = &s->first, s->device = current, s->next = all_streams, s->flags = flags;
    all_streams = s, streams++, *out = s; END;
}
int cuStreamDestroy_v2(stream *s) {
    BEGIN("cuStreamDestroy_v2") REQUIRE_CONTEXT REQUIRE(s, INVALID_HANDLE)
    while (run_one(s)) {}
    for (stream **p = &all_streams; *p; p = &(*p)->next) if (*p == s) { *p = s->next; break; }
    /* events may still point at it: keep the memory, as a driver keeps its own */
    streams--; END;
}
int cuStreamSynchronize(stream *s) {
    BEGIN("cuStreamSynchronize") REQUIRE_CONTEXT REQUIRE_NO_CAPTURE s = handle(s); while (run_one(s)) {} END;
}
int cuStreamQuery(stream *s) {
    BEGIN("cuStreamQuery") REQUIRE_CONTEXT REQUIRE_NO_CAPTURE
    s = handle(s); run_one(s); REQUIRE(!s->first, NOT_READY) END;
}
int cuStreamWaitEvent(stream *s, event *e, unsigned flags) {
    BEGIN("cuStreamWaitEvent") (void)flags; REQUIRE_CONTEXT REQUIRE(e, INVALID_HANDLE)
    if (e->on) { op *o = queue(handle(s), NULL, NULL, 0, 0); o->awaited = e->on, o->after = e->after; } END;
}
int cuStreamGetCtx(stream *s, void **context) {
    BEGIN("cuStreamGetCtx") REQUIRE_CONTEXT *context = &retained[handle(s)->device]; END;
}
int cuStreamIsCapturing(stream *s, int *status) {
    BEGIN("cuStreamIsCapturing") REQUIRE_CONTEXT *status = capturing && handle(s) == &legacy[current]; END;
}

int cuEventCreate(event **out, unsigned flags) {
    BEGIN("cuEventCreate") (void)flags; REQUIRE_CONTEXT *out = calloc(1, sizeof(event)); events++; END;
}
int cuEventDestroy_v2(event *e) {
    BEGIN("cuEventDestroy_v2") REQUIRE_CONTEXT REQUIRE(e, INVALID_HANDLE) free(e); events--; END;
}
int cuEventRecord(event *e, stream *s) {
    BEGIN("cuEventRecord") REQUIRE_CONTEXT REQUIRE(e, INVALID_HANDLE)
    s = handle(s); REQUIRE(s->device == current, INVALID_HANDLE) e->on = s; e->after = s->queued; END;
}
int cuEventQuery(event *e) {
    BEGIN("cuEventQuery") REQUIRE_CONTEXT REQUIRE_NO_CAPTURE REQUIRE(e, INVALID_HANDLE)
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
    BEGIN("cuMemcpyHtoDAsync_v2") REQUIRE_CONTEXT s = handle(s); REQUIRE(s->device == current, INVALID_HANDLE)
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
    drain_legacy();
    memcpy((void *)to, from, bytes); END;
}
int cuMemcpyDtoH_v2(void *to, address from, size_t bytes) {
    BEGIN("cuMemcpyDtoH_v2") REQUIRE_CONTEXT REQUIRE(covered((void *)from, bytes, 1), ILLEGAL_ADDRESS)
    drain_legacy();
    memcpy(to, (void *)from, bytes); END;
}
/* As the driver's header declares it; memory types: 1 host, 2 device. */
typedef struct { size_t x, y; int kind; void *host; address device; void *array; size_t pitch; } plane;
typedef struct { plane from, to; size_t width, height; } copy_2d;

int cuMemcpy2DAsync_v2(const copy_2d *c, stream *s) {
    BEGIN("cuMemcpy2DAsync_v2") REQUIRE_CONTEXT REQUIRE(c->from.kind == 1 && c->to.kind == 2, INVALID_VALUE)
    REQUIRE(c->width <= c->from.pitch && c->width <= c->to.pitch, INVALID_VALUE)
    s = handle(s);
    for (size_t row = 0; row < c->height && !result; row++) {
        char *from = (char *)c->from.host + (c->from.y + row) * c->from.pitch + c->from.x;
        char *to = (char *)c->to.device + (c->to.y + row) * c->to.pitch + c->to.x;
        if (!covered(to, c->width, 1)) result = ILLEGAL_ADDRESS;
        else if (covered(from, c->width, 0)) queue(s, to, from, 0, c->width);
        else { while (run_one(s)) {} memcpy(to, from, c->width); }
    } END;
}
int cuMemsetD8Async(address to, unsigned char value, size_t bytes, stream *s) {
    BEGIN("cuMemsetD8Async") REQUIRE_CONTEXT REQUIRE(covered((void *)to, bytes, 1), ILLEGAL_ADDRESS)
    queue(handle(s), (void *)to, NULL, value, bytes); END;
}

/* What tests of the same process ask and order. */
long fake_cuda(const char *what, long argument) {
    pthread_mutex_lock(&lock);
    long answer = 0;
    rule *f = find(functions, function_count, what);
    if (f) answer = f->calls;
    else if (!strcmp(what, "current device")) answer = current;
    else if (!strcmp(what, "make current")) {
        if (argument >= 0 && !retained[argument]) retained[argument] = 1; /* by this other part of the program */
        current = (int)argument, current_life = argument < 0 ? 0 : life[argument];
    } else if (!strcmp(what, "context")) {
        answer = current < 0 ? INVALID_CONTEXT : current_life != life[current] ? CONTEXT_IS_DESTROYED : SUCCESS;
    } else if (!strcmp(what, "capture mode")) answer = capture_mode;
    else if (!strcmp(what, "capture")) capturing = (int)argument;
    else if (!strcmp(what, "invalidated")) answer = invalidated;
    else if (!strcmp(what, "late kernel")) queue(&legacy[argument], NULL, NULL, 0, 0)->steps = 10000;
    else if (!strcmp(what, "late kernels")) answer = (long)(legacy[argument].queued - legacy[argument].done);
    else if (!strcmp(what, "fenced")) answer = fenced;
    else if (strncmp(what, "cu", 2)) answer = -1;
    pthread_mutex_unlock(&lock);
    return answer;
}

int cuGetErrorName(int code, const char **name) {
    *name = code == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY"
        : code == NOT_INITIALIZED ? "CUDA_ERROR_NOT_INITIALIZED"
        : code == 302 ? "CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND"
        : code == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS"
        : code == CONTEXT_IS_DESTROYED ? "CUDA_ERROR_CONTEXT_IS_DESTROYED"
        : code == NOT_SUPPORTED ? "CUDA_ERROR_NOT_SUPPORTED"
        : code == CAPTURE_UNSUPPORTED ? "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" : NULL;
    return *name ? SUCCESS : INVALID_VALUE;
}
int cuGetErrorString(int code, const char **text) {
    *text = code == OUT_OF_MEMORY ? "out of memory" : code == ILLEGAL_ADDRESS ? "an illegal address" : NULL;
    return *text ? SUCCESS : INVALID_VALUE;
}
