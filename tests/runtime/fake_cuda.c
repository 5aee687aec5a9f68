/* A CUDA driver library without a GPU: memory is malloc, a stream runs everything at once.

   It is strict where the real one is: calls need cuInit and a current context, handles must be
   live, a stream that is captured cannot be waited for. Tests read how many objects live, limit the
   memory, and let any call fail. Names and codes: CUDA Driver API. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
       INVALID_CONTEXT = 201, INVALID_HANDLE = 400, LAUNCH_FAILED = 719, CAPTURE_UNSUPPORTED = 900,
       CAPTURE_INVALIDATED = 901 };
enum { DEVICE, HOST, STREAM, EVENT, GRAPH, GRAPH_EXEC, KINDS };

typedef void (*Work)(void);
typedef struct { Work *work; int count; } Tasks;
typedef struct Object {
    struct Object *next;
    int kind;
    size_t size;
    struct timespec time;
    int recorded, capturing, invalid;
    Tasks tasks;
    void *memory;
} Object;

static Object *objects;
static int initialized, gpus = 1, contexts, context_handle, fail_code, fail_after = -1;
static void *stack[16];
static int depth;
static char fail_name[64];
static size_t total_memory = (size_t)1 << 30, used_memory;
static long calls;

/* What tests use. */

void fake_reset(void) {
    while (objects) {
        Object *next = objects->next;
        free(objects->memory);
        free(objects->tasks.work);
        free(objects);
        objects = next;
    }
    initialized = contexts = fail_code = 0;
    gpus = 1;
    fail_after = -1;
    depth = 0;
    stack[0] = NULL;
    total_memory = (size_t)1 << 30;
    used_memory = 0;
    calls = 0;
}

/* The call `name` answers `code` after it went well `after` times. */
void fake_fail(const char *name, int code, int after) {
    strncpy(fail_name, name, sizeof fail_name - 1);
    fail_code = code;
    fail_after = after;
}

void fake_gpus(int count) { gpus = count; }
void fake_memory(size_t bytes) { total_memory = bytes; }
void fake_take_context(void) { stack[depth] = NULL; }
long fake_calls(void) { return calls; }
int fake_contexts(void) { return contexts; }
int fake_current(void) { return stack[depth] != NULL; }

int fake_live(int kind) {
    int count = 0;
    for (Object *one = objects; one; one = one->next) count += one->kind == kind;
    return count;
}

/* Put work on a stream, as TensorRT does: kept when the stream is captured, done at once otherwise. */
int fake_enqueue(void *stream, Work work);

/* The driver. */

static int refused(const char *name) {
    calls++;
    if (fail_after >= 0 && strcmp(name, fail_name) == 0 && fail_after-- == 0) return fail_code;
    return OK;
}

#define ENTER                                                                                                \
    do {                                                                                                     \
        int code = refused(__func__);                                                                        \
        if (code) return code;                                                                               \
        if (!initialized) return NOT_INITIALIZED;                                                            \
    } while (0)
#define ENTER_CONTEXT                                                                                        \
    do {                                                                                                     \
        ENTER;                                                                                               \
        if (!contexts || stack[depth] != &context_handle) return INVALID_CONTEXT;                                 \
    } while (0)

static Object *create(int kind) {
    Object *one = calloc(1, sizeof *one);
    one->kind = kind;
    one->next = objects;
    return objects = one;
}

static Object *find(int kind, const void *handle) {
    for (Object *one = objects; one; one = one->next)
        if (one->kind == kind && (one == handle || (one->memory && one->memory == handle))) return one;
    return NULL;
}

static int destroy(int kind, const void *handle) {
    Object *found = find(kind, handle);
    if (!found) return kind <= HOST ? INVALID_VALUE : INVALID_HANDLE;
    for (Object **link = &objects; *link; link = &(*link)->next)
        if (*link == found) {
            *link = found->next;
            break;
        }
    if (kind == DEVICE) used_memory -= found->size;
    free(found->memory);
    free(found->tasks.work);
    free(found);
    return OK;
}

static int capturing(void) {
    int found = 0;
    for (Object *one = objects; one; one = one->next)
        if (one->kind == STREAM && one->capturing) found = one->invalid = 1;
    return found;
}

static void run(const Tasks *tasks) {
    for (int index = 0; index < tasks->count; index++) tasks->work[index]();
}

static void add(Tasks *tasks, Work work) {
    tasks->work = realloc(tasks->work, (tasks->count + 1) * sizeof *tasks->work);
    tasks->work[tasks->count++] = work;
}

int fake_enqueue(void *stream, Work work) {
    Object *found = find(STREAM, stream);
    if (!found) return INVALID_HANDLE;
    if (found->capturing) add(&found->tasks, work);
    else work();
    return OK;
}

int cuInit(unsigned flags) {
    int code = refused(__func__);
    (void)flags;
    if (code) return code;
    if (!gpus) return NO_DEVICE;
    initialized = 1;
    return OK;
}

int cuGetErrorName(int code, const char **name) {
    static const struct { int code; const char *name; } names[] = {
        {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
        {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
        {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED"},
        {NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},
        {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
        {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
        {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE"},
        {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"},
        {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
        {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"},
    };
    for (size_t index = 0; index < sizeof names / sizeof *names; index++)
        if (names[index].code == code) {
            *name = names[index].name;
            return OK;
        }
    *name = NULL;
    return INVALID_VALUE;
}

int cuDriverGetVersion(int *version) {
    *version = 12060;
    return OK;
}

int cuDeviceGetCount(int *count) {
    ENTER;
    *count = gpus;
    return OK;
}

int cuDeviceGet(int *device, int index) {
    ENTER;
    if (index < 0 || index >= gpus) return INVALID_DEVICE;
    *device = index;
    return OK;
}

int cuDeviceGetName(char *name, int size, int device) {
    ENTER;
    if (device >= gpus) return INVALID_DEVICE;
    strncpy(name, "Fake Orin", size);
    return OK;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    ENTER;
    if (device >= gpus) return INVALID_DEVICE;
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : attribute == 18;
    return OK;
}

int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    ENTER;
    if (device >= gpus) return INVALID_DEVICE;
    *bytes = total_memory;
    return OK;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    ENTER;
    if (device >= gpus) return INVALID_DEVICE;
    contexts++;
    *context = &context_handle;
    return OK;
}

int cuDevicePrimaryCtxRelease_v2(int device) {
    ENTER;
    if (device >= gpus || !contexts) return INVALID_CONTEXT;
    contexts--;
    return OK;
}

int cuCtxGetCurrent(void **context) {
    ENTER;
    *context = stack[depth];
    return OK;
}

int cuCtxSetCurrent(void *context) {
    ENTER;
    if (context && context != &context_handle) return INVALID_CONTEXT;
    stack[depth] = context;
    return OK;
}

int cuCtxPushCurrent_v2(void *context) {
    ENTER;
    if (context != &context_handle || depth == 15) return INVALID_CONTEXT;
    stack[++depth] = context;
    return OK;
}

int cuCtxPopCurrent_v2(void **context) {
    ENTER;
    if (!depth) return INVALID_CONTEXT;
    *context = stack[depth--];
    return OK;
}

int cuMemGetInfo_v2(size_t *available, size_t *total) {
    ENTER_CONTEXT;
    *available = total_memory - used_memory;
    *total = total_memory;
    return OK;
}

int cuMemAlloc_v2(uint64_t *address, size_t size) {
    ENTER_CONTEXT;
    if (!size) return INVALID_VALUE;
    if (capturing()) return CAPTURE_UNSUPPORTED;
    if (used_memory + size > total_memory) return OUT_OF_MEMORY;
    Object *made = create(DEVICE);
    made->memory = malloc(size);
    memset(made->memory, 0xCD, size);
    made->size = size;
    used_memory += size;
    *address = (uint64_t)(uintptr_t)made->memory;
    return OK;
}

int cuMemFree_v2(uint64_t address) {
    ENTER_CONTEXT;
    return destroy(DEVICE, (void *)(uintptr_t)address);
}

int cuMemHostAlloc(void **address, size_t size, unsigned flags) {
    ENTER_CONTEXT;
    if (!size || flags) return INVALID_VALUE;
    Object *made = create(HOST);
    made->memory = malloc(size);
    made->size = size;
    *address = made->memory;
    return OK;
}

int cuMemFreeHost(void *address) {
    ENTER_CONTEXT;
    return destroy(HOST, address);
}

static int copy(void *target, const void *source, const void *device, size_t size, void *stream) {
    Object *block = find(DEVICE, device), *queue = find(STREAM, stream);
    if (!queue) return INVALID_HANDLE;
    if (!block || size > block->size) return INVALID_VALUE;
    memcpy(target, source, size);
    return OK;
}

int cuMemcpyHtoDAsync_v2(uint64_t target, const void *source, size_t size, void *stream) {
    ENTER_CONTEXT;
    void *device = (void *)(uintptr_t)target;
    return copy(device, source, device, size, stream);
}

int cuMemcpyDtoHAsync_v2(void *target, uint64_t source, size_t size, void *stream) {
    ENTER_CONTEXT;
    void *device = (void *)(uintptr_t)source;
    return copy(target, device, device, size, stream);
}

int cuStreamCreate(void **stream, unsigned flags) {
    ENTER_CONTEXT;
    if (flags > 1) return INVALID_VALUE;
    *stream = create(STREAM);
    return OK;
}

int cuStreamDestroy_v2(void *stream) {
    ENTER_CONTEXT;
    return destroy(STREAM, stream);
}

int cuStreamSynchronize(void *stream) {
    ENTER_CONTEXT;
    Object *found = find(STREAM, stream);
    if (!found) return INVALID_HANDLE;
    if (!found->capturing) return OK;
    found->invalid = 1;
    return CAPTURE_UNSUPPORTED;
}

int cuEventCreate(void **event, unsigned flags) {
    ENTER_CONTEXT;
    if (flags) return INVALID_VALUE;
    *event = create(EVENT);
    return OK;
}

int cuEventDestroy_v2(void *event) {
    ENTER_CONTEXT;
    return destroy(EVENT, event);
}

int cuEventRecord(void *event, void *stream) {
    ENTER_CONTEXT;
    Object *found = find(EVENT, event);
    if (!found || !find(STREAM, stream)) return INVALID_HANDLE;
    clock_gettime(CLOCK_MONOTONIC, &found->time);
    found->recorded = 1;
    return OK;
}

int cuEventElapsedTime(float *milliseconds, void *start, void *end) {
    ENTER_CONTEXT;
    Object *from = find(EVENT, start), *to = find(EVENT, end);
    if (!from || !to || !from->recorded || !to->recorded) return INVALID_HANDLE;
    *milliseconds =
        (to->time.tv_sec - from->time.tv_sec) * 1e3f + (to->time.tv_nsec - from->time.tv_nsec) / 1e6f;
    return OK;
}

int cuStreamBeginCapture_v2(void *stream, int mode) {
    ENTER_CONTEXT;
    Object *found = find(STREAM, stream);
    if (!found) return INVALID_HANDLE;
    if (mode < 0 || mode > 2 || found->capturing) return INVALID_VALUE;
    found->capturing = 1;
    return OK;
}

int cuStreamEndCapture(void *stream, void **graph) {
    ENTER_CONTEXT;
    Object *found = find(STREAM, stream);
    if (!found) return INVALID_HANDLE;
    if (!found->capturing) return INVALID_VALUE;
    int invalid = found->invalid;
    Tasks tasks = found->tasks;
    found->capturing = found->invalid = 0;
    found->tasks = (Tasks){0};
    *graph = NULL;
    if (invalid) {
        free(tasks.work);
        return CAPTURE_INVALIDATED;
    }
    Object *made = create(GRAPH);
    made->tasks = tasks;
    *graph = made;
    return OK;
}

static int instantiate(void **executable, void *graph) {
    Object *found = find(GRAPH, graph);
    if (!found) return INVALID_HANDLE;
    Object *made = create(GRAPH_EXEC);
    for (int index = 0; index < found->tasks.count; index++) add(&made->tasks, found->tasks.work[index]);
    *executable = made;
    return OK;
}

#ifdef BEFORE_CUDA_11_4
int cuGraphInstantiate_v2(void **executable, void *graph, void **node, char *log, size_t size) {
    ENTER_CONTEXT;
    if (node || log || size) return INVALID_VALUE;
    return instantiate(executable, graph);
}
#else
int cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags) {
    ENTER_CONTEXT;
    if (flags) return INVALID_VALUE;
    return instantiate(executable, graph);
}
#endif

int cuGraphLaunch(void *executable, void *stream) {
    ENTER_CONTEXT;
    Object *found = find(GRAPH_EXEC, executable);
    if (!found || !find(STREAM, stream)) return INVALID_HANDLE;
    run(&found->tasks);
    return OK;
}

int cuGraphDestroy(void *graph) {
    ENTER_CONTEXT;
    return destroy(GRAPH, graph);
}

int cuGraphExecDestroy(void *executable) {
    ENTER_CONTEXT;
    return destroy(GRAPH_EXEC, executable);
}
