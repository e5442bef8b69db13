/* The C API of the bbg engine: build a graph, make an engine of it, run images through it.
 *
 * Every function returns NULL on success, else one sentence for the caller, valid until the next call on this thread.
 * Nothing aborts and no exception crosses this border. Sizes are checked here: memory outside the given arrays is
 * never read. What the ops compute is defined in docs/format.md; names below are the names used there.
 */
#ifndef BBG_H
#define BBG_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct bbg_graph bbg_graph;
typedef struct bbg_engine bbg_engine;

/* The rows of an epilogue, in the order of bbg_op.rows. */
enum bbg_row {
  BBG_SCALE, BBG_BIAS, BBG_SHIFT, BBG_GATE, BBG_ABOVE, BBG_BELOW, BBG_OFFSET, BBG_SIGN, BBG_BYTE_SCALE, BBG_BYTE_BIAS,
  BBG_ROWS
};

/* `count` elements of the type the tensor has in the format; data NULL: absent. */
typedef struct bbg_array {
  const void* data;
  size_t count;
} bbg_array;

/* One op; pairs are (vertical, horizontal). Fields the kind does not have are ignored. Arrays are borrowed until the
 * last bbg_engine_new on the graph has returned. */
typedef struct bbg_op {
  const char *name, *kind;
  const char* const* operands; /* names of values, as many as the kind has */
  int64_t operand_count;
  const char *shortcut, *real, *bits, *bytes; /* NULL where absent */
  int64_t kernel[2], stride[2], padding[2], dilation[2], size[2], groups, channels;
  int ceil_mode, count_include_pad;
  float eps;
  float low, high; /* the clip; -INFINITY and INFINITY where open */
  bbg_array weight, threshold, tap_bias, and_mask, index;
  bbg_array rows[BBG_ROWS];
} bbg_op;

/* `bytes` not 0: the input is bytes, else real numbers. */
const char* bbg_graph_new(const char* input, int bytes, int64_t channels, int64_t height, int64_t width,
                          bbg_graph** graph);
const char* bbg_graph_add(bbg_graph* graph, const bbg_op* op);
const char* bbg_graph_output(bbg_graph* graph, const char* value);
/* Shape of a value of the graph: channels, height, width. */
const char* bbg_graph_shape(const bbg_graph* graph, const char* value, int64_t shape[3]);
void bbg_graph_free(bbg_graph* graph);

/* `isa` NULL: what BBG_ISA says, else the best set this machine has. `threads` 1 or more. */
const char* bbg_engine_new(const bbg_graph* graph, const char* isa, int threads, bbg_engine** engine);
const char* bbg_engine_isa(const bbg_engine* engine);
/* Bytes the engine holds: constants (weights as blocked for the kernel set) and its one workspace. */
void bbg_engine_bytes(const bbg_engine* engine, size_t* constants, size_t* workspace);
void bbg_engine_free(bbg_engine* engine);

typedef enum bbg_input {
  BBG_FLOAT_NCHW, /* normalised numbers; a NaN or infinity is an error */
  BBG_BYTE_NHWC   /* a byte stands for the number scale[c] * byte + bias[c] */
} bbg_input;

/* Runs `images` images. `scale`, `bias`: one number per channel, read where bytes come in and the graph's input is real,
 * or the other way round; then no scale may be 0. `outputs[i]` receives output i as float32 NCHW and has room for `counts[i]` numbers. `seconds` NULL, or one number per op of the graph, which is
 * set to the time that op took. Callable from several threads at once: calls on one engine take turns. */
const char* bbg_engine_run(bbg_engine* engine, bbg_input kind, const void* data, size_t bytes, int64_t images,
                           const float* scale, const float* bias, float* const* outputs, const size_t* counts,
                           double* seconds);

/* The kernel sets in order of preference. Returns 0 past the end. */
int bbg_kernel_set(int index, const char** name, int* supported);

/* For benchmarks: 10^9 products of bits per second (`*gmacs`) of the plain xor, population count and addition loop with
 * the instructions of a kernel set, on the calling thread. Takes some milliseconds. */
const char* bbg_roofline(const char* kernel_set, double* gmacs);

#ifdef __cplusplus
}
#endif
#endif
