/* The C API of the bbg engine: build a graph, make an engine of it, run images through it.
 *
 * Every function that returns `const char*` returns NULL on success, else one sentence for the caller, valid until the
 * next call on this thread. Nothing aborts and no exception crosses this border. Sizes are checked here: memory outside
 * the given arrays is never read. What the ops compute is defined in docs/format.md; the names below are the names used
 * there.
 *
 * A linear layer of 4 inputs and 2 outputs, y = w x + 1:
 *
 *   static const float w[2 * 4] = {1, 0, 0, 0,  0, 1, 0, 0}, bias[2] = {1, 1};
 *   const char* operands[] = {"x"};
 *   bbg_op op = {0};
 *   op.name = "fc", op.kind = "conv", op.operands = operands, op.operand_count = 1, op.real = "y";
 *   bbg_attributes* a = &op.attributes;
 *   a->kernel[0] = a->kernel[1] = a->stride[0] = a->stride[1] = a->dilation[0] = a->dilation[1] = 1;
 *   a->groups = 1, a->channels = 2;
 *   op.low = -INFINITY, op.high = INFINITY;
 *   op.weight.data = w, op.weight.count = 8;
 *   op.epilogue[BBG_BIAS].data = bias, op.epilogue[BBG_BIAS].count = 2;
 *   const bbg_part part = {"y", "CHW"};
 *
 *   bbg_graph* graph = NULL;
 *   bbg_engine* engine = NULL;
 *   const char* error = bbg_graph_new("x", 0, 4, 1, 1, &graph);
 *   if (!error) error = bbg_graph_add(graph, &op);
 *   if (!error) error = bbg_graph_output(graph, &part, 1);
 *   if (!error) error = bbg_engine_new(graph, NULL, 1, NULL, NULL, NULL, &engine);
 *
 *   const float x[4] = {5, 6, 7, 8};
 *   float y[2];
 *   float* const outputs[] = {y};
 *   const size_t counts[] = {2};
 *   if (!error) {
 *     error = bbg_engine_run(engine, BBG_FLOAT_NCHW, x, sizeof x, 1, NULL, NULL, outputs, counts, NULL, NULL, NULL);
 *   }
 *   // y is now 6, 7; or `error` is a sentence
 *   bbg_engine_free(engine);
 *   bbg_graph_free(graph);
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

/* The parameters of an epilogue, in the order of bbg_op.epilogue. */
enum bbg_parameter {
  BBG_SCALE,
  BBG_BIAS,
  BBG_SHIFT,
  BBG_GATE,
  BBG_ABOVE,
  BBG_BELOW,
  BBG_OFFSET,
  BBG_BIT_THRESHOLD,
  BBG_BYTE_SCALE,
  BBG_BYTE_BIAS,
  BBG_PARAMETERS /* their number */
};

/* `count` elements of the type that the tensor has in the format; data NULL: absent. */
typedef struct bbg_array {
  const void* data;
  size_t count;
} bbg_array;

/* The attributes of an op. Pairs are (vertical, horizontal). Those that its kind does not have are ignored. */
typedef struct bbg_attributes {
  int64_t kernel[2], stride[2], padding[2], dilation[2], size[2], groups, channels;
  int ceil_mode, count_include_pad, align_corners;
  float eps;
  const char* function; /* see bbg_function */
} bbg_attributes;

/* One op. Start from a zeroed struct. What must be set:
 *
 *   always                          name, kind, operands, operand_count; at least one of real, bits, bytes;
 *                                   low and high (-INFINITY and INFINITY for no clip)
 *   kinds with a kernel             kernel and stride, at least 1; dilation, at least 1, unless the kind has none
 *   convolutions                    groups, at least 1; channels; weight
 *   select                          channels; index
 *   match_channels, max_channels    channels
 *   adaptive_avg_pool, bilinear     size
 *   take                            size; index
 *   depth_to_space                  stride
 *   unary                           function
 *   layer_norm                      eps
 *
 * A tensor or an epilogue parameter that the kind does not have is refused, and so are numbers that are not finite and
 * a tap_bias of 2^30 and more. */
typedef struct bbg_op {
  const char *name, *kind;
  const char* const* operands; /* names of values, as many as the kind has */
  int64_t operand_count;
  const char *shortcut, *real, *bits, *bytes; /* names of values; NULL where absent */
  bbg_attributes attributes;
  float low, high; /* the clip */
  bbg_array weight, acc_threshold, tap_bias, and_mask, index;
  bbg_array epilogue[BBG_PARAMETERS];
} bbg_op;

/* A value and the order in which its axes are written, a permutation of "CHW": "HWC" is channels last. */
typedef struct bbg_part {
  const char *value, *order;
} bbg_part;

/* A new graph with its input; `bytes` not 0: of bytes, else of real numbers. The caller owns it: bbg_graph_free. */
const char* bbg_graph_new(const char* input, int bytes, int64_t channels, int64_t height, int64_t width,
                          bbg_graph** graph);
/* Adds an op. The struct and its strings are copied. Its arrays are borrowed: they must stay until the last
 * bbg_engine_new on this graph has returned. On failure the graph is as it was. */
const char* bbg_graph_add(bbg_graph* graph, const bbg_op* op);
/* Adds an output: for each image, the numbers of its parts, one part after another. Copies the parts. */
const char* bbg_graph_output(bbg_graph* graph, const bbg_part* parts, int64_t count);
/* Shape of a value of the graph: channels, height, width. */
const char* bbg_graph_shape(const bbg_graph* graph, const char* value, int64_t shape[3]);
/* NULL is allowed. Engines made of the graph stay valid. */
void bbg_graph_free(bbg_graph* graph);

/* What an engine may take: a graph that needs more is refused before memory is taken for it. A graph of a few hundred
 * bytes can ask for any amount of either.
 *
 *   memory       bytes of weights, tables and workspaces together, and of the outputs of one image
 *   operations   of one image: vector operations, each a step of a kernel for up to 16 channels, estimated from above
 */
typedef struct bbg_limits {
  int64_t memory, operations;
} bbg_limits;

/* A new engine. It copies all it needs: the graph may be freed and its arrays released. `kernel_set` NULL: what the
 * environment variable BBG_ISA says, else the best set of this machine. `threads` 1 or more. `limits` NULL: 32 GiB, and
 * as many operations as it takes. `stop` and `context`: as for bbg_engine_run. The caller owns the engine:
 * bbg_engine_free. */
const char* bbg_engine_new(const bbg_graph* graph, const char* kernel_set, int threads, const bbg_limits* limits,
                           int (*stop)(void* context), void* context, bbg_engine** engine);
/* Name of the engine's kernel set; a constant string. NULL for NULL. */
const char* bbg_engine_isa(const bbg_engine* engine);
/* Bytes the engine holds: constants (weights as blocked for the kernel set) and one workspace; each call that runs
 * beside others has its own. Either may be NULL. */
void bbg_engine_bytes(const bbg_engine* engine, size_t* constants, size_t* workspace);
/* NULL is allowed. No call on the engine may be in progress. */
void bbg_engine_free(bbg_engine* engine);

typedef enum bbg_input {
  BBG_FLOAT_NCHW, /* normalised numbers; a NaN or infinity is an error */
  BBG_BYTE_NHWC   /* a byte stands for the number scale[c] * byte + bias[c] */
} bbg_input;

/* Runs `images` images. All arrays stay the caller's. `kind`: a bbg_input.
 *
 * `data`: `bytes` bytes, any alignment. `scale`, `bias`: one number per channel, read only where bytes come in and the
 * graph's input is real, or the other way round; then no scale may be 0. `outputs[i]` receives output i as float32 and
 * has room for `counts[i]` numbers; bits are written as +1 and -1, bytes as their number. `seconds`: NULL, or one
 * number per op of the graph, which that op's time is added to. Callable from several threads at once: their
 * calls run side by side, each with `threads` threads, as many as keep all processors busy and the limits have
 * memory for; others wait. Callable in a forked child, whatever the threads of the parent were doing.
 *
 * `stop`: NULL, or what the calling thread asks about every tenth of a second, with `context`. Where the answer is not
 * 0 the call ends soon, with the error "interrupted", and the outputs hold anything. */
const char* bbg_engine_run(bbg_engine* engine, int kind, const void* data, size_t bytes, int64_t images,
                           const float* scale, const float* bias, float* const* outputs, const size_t* counts,
                           double* seconds, int (*stop)(void* context), void* context);

/* Kernel set number `index`, best first, and whether this machine runs it; either may be NULL. Returns 0 past the end.
 */
int bbg_kernel_set(int index, const char** name, int* supported);
/* The kernel set that an engine asked for by `name` gets; NULL as for bbg_engine_new. `chosen`: a constant string. */
const char* bbg_choose_kernel_set(const char* name, const char** chosen);
/* Name of unary function number `index`, a constant string; NULL past the end. */
const char* bbg_function(int index);

/* For benchmarks: 10^9 products of bits per second (`*gmacs`) of the plain xor, population count and addition loop with
 * the instructions of a kernel set, on the calling thread. Takes some milliseconds. */
const char* bbg_roofline(const char* kernel_set, double* gmacs);

#ifdef __cplusplus
}
#endif
#endif
