// Weights of convolutions of bytes: [item][lane], an item being one 32-bit word of activations. A word holds 4 numbers
// where a number takes one byte (Kernels::byte_size), 2 where it takes two. Each lane's word holds the weights of its
// filter for the same numbers, and one instruction adds up the products.
//
//   activations   | a0 a1 a2 a3 | a4 a5 a6 a7 | a8 ...      one tap, or a whole tap row where its taps are adjacent
//                       |
//   weights       | w0 w1 w2 w3 | w0 w1 w2 w3 | ... lanes   item 0 (word 0)
//                 | w4 w5 w6 w7 | w4 w5 w6 w7 | ...         item 1 (word 1)
//                   filter o      filter o+1
//
// Which numbers share words:
//
//   - Pixels of an input that only convolutions read follow each other without gaps. If the taps of a row do as well
//     (no dilation, no groups), the numbers of a whole tap row are one run: kernel width * channels.
//   - Otherwise a tap's words are its own, because a pixel ends in unspecified numbers up to a whole vector. Their
//     weights are 0, as are those behind the end of a run.
//
// A run of 4 k + 1 numbers would take a word for the last one alone. Where the kernel set can (Kernels::tail_bytes),
// the last bytes of all tap rows share words of their own behind the weights of all rows (TailBytes). For 7 x 7 x 3,
// with 21 numbers per tap row:
//
//   row 0   |0 1 2 3|4 5 6 7| ... |16 17 18 19|  20 ─┐
//   row 1   |0 1 2 3|4 5 6 7| ... |16 17 18 19|  20 ─┤      tail word 0: byte 20 of the rows 0, 1, 2, 3
//   ...                                               ┘      tail word 1: byte 20 of the rows 4, 5, 6
#include <cstring>

#include "lower/conv.h"

namespace bbg {
namespace {

TailBytes make_tail_bytes(const LowerInput& in, int64_t from, int64_t tail_words) {
  const int64_t row = 4 * round_up(in.out.width, in.lanes);  // bytes of one word of all columns
  TailBytes tail{};
  tail.words = int32_t(tail_words);
  std::vector<int32_t> offsets;
  for (int64_t word = 0; word < tail.words; ++word) offsets.push_back(int32_t(word * row));
  tail.offsets = in.memory.copy(offsets);
  tail.bytes = round_up(tail.words * row, int64_t(kCacheLine));
  tail.buffer = in.scratch.take(in.members, tail.bytes);
  tail.from = int32_t(from);
  tail.rows = in.op.kernel[0];
  return tail;
}

// How the numbers of a block's window are cut into words: `taps` of a row share `words`.
struct WordCut {
  int64_t taps;  // one, or all of the row
  int64_t words;
  int64_t per_word;
  int64_t channels;  // numbers of a tap
  bool tail;         // whether the last number of a run lies in a tail word
};

// The item that holds channel `channel` of tap (ky, kx), and where in its word.
struct Slot {
  int64_t item, in_word;
};

Slot slot_of(const WordCut& cut, const ConvBlock& block, int64_t rows, int64_t ky, int64_t kx, int64_t channel) {
  const int64_t number = kx % cut.taps * cut.channels + channel;
  if (cut.tail && number == cut.per_word * cut.words) return {rows * cut.words + ky / 4, ky % 4};
  const int64_t run = kx / cut.taps;  // of the row
  return {ky * block.items + run * cut.words + number / cut.per_word, number % cut.per_word};
}

// Tiles that divide a tap row of `numbers` bytes and an output row with as little padding as can be. One column would
// leave most of a tile empty. A tile that is not the last has an even number of them, for the sake of pools. Sums of
// tiles go through the memory, which costs more than the products of a window of few `words` do without tiles.
Tiles choose_tiles(const LowerInput& in, const Conv& conv, int64_t numbers, int64_t words) {
  constexpr int64_t kFewWords = 7;
  if (!in.kernels.tiles || conv.images_as_columns || in.out.width == 1 || words <= kFewWords) return {};
  constexpr int64_t kMostBytes = 64, kMostColumns = 16;
  const auto part = [](int64_t whole, int64_t most) {
    const int64_t parts = (whole + most - 1) / most;
    return (whole + parts - 1) / parts;
  };
  const int64_t columns = part(in.out.width, kMostColumns), even = columns + (columns < in.out.width && columns % 2);
  return {int32_t(round_up(part(numbers, kMostBytes), 4)), int32_t(even), even == in.out.width ? 2 : 1, 1,
          int32_t(in.op.kernel[0])};
}

// Whether an item takes a pair of tiles through all blocks before the next pair, so that the result goes through the
// memory once and in order. That pays where more blocks are written than chunks are read, if the weights stay in the
// second-level cache, which has 2 MB on CPUs with tiles: 1x1 convolutions to many channels. The rows alone must give
// every member of the team enough to do.
bool writes_much(const LowerInput& in, const Conv& conv, const std::vector<ConvBlock>& blocks) {
  constexpr int64_t kCache = 1024 << 10, kRowsPerMember = 8;
  const int64_t rows = in.op.kernel[0], chunks = rows * blocks[0].items * 4 / conv.tiles.bytes;
  const int64_t weights = int64_t(blocks.size()) * rows * blocks[0].row_weights * 4;
  return int64_t(blocks.size()) > chunks && weights <= kCache && in.out.height >= kRowsPerMember * in.members;
}

}  // namespace

void arrange_bytes(const LowerInput& in, Conv& conv, std::vector<ConvBlock>& blocks) {
  const Op& op = in.op;
  const int64_t inputs = in.group_inputs(), size = in.kernels.byte_size, per_word = 4 / size;
  const int64_t rows = op.kernel[0], cols = op.kernel[1];
  const bool one_run = conv.input.pixel == in.in.channels * size && op.dilation[1] == 1 && op.groups == 1;
  for (ConvBlock& block : blocks) {
    in.stop.check();
    const BlockRange range = block_range(in, block);
    const int64_t width = block.vectors * in.lanes, taps = one_run ? cols : 1, numbers = taps * range.channels;
    const bool can_tail = in.kernels.tail_bytes && one_run && !conv.images_as_columns && numbers % per_word == 1 &&
                          rows > 1 && conv.column <= kTailColumn;
    const int64_t row_words = (numbers + (can_tail ? 0 : per_word - 1)) / per_word, tail_words = (rows + 3) / 4;
    const int64_t window = rows * cols / taps * row_words + (can_tail ? tail_words : 0);
    if (&block == &blocks[0]) conv.tiles = choose_tiles(in, conv, numbers, window);
    const int64_t tile = conv.tiles.bytes;
    const bool tail = can_tail && !tile;
    const WordCut cut{taps, tile ? round_up(numbers, tile) / 4 : row_words, per_word, range.channels, tail};
    if (tail && !conv.tail_bytes.words) conv.tail_bytes = make_tail_bytes(in, 4 * cut.words, tail_words);
    const bool same_offsets = op.groups == 1 && &block != &blocks[0];
    block.items = int32_t(cols / taps * cut.words);
    block.offsets = same_offsets ? blocks[0].offsets : make_offsets(in, conv, range.from * size, cut.words, 4, taps);
    block.row_weights = block.items * width;
    uint8_t* to = in.memory.make<uint8_t>((rows * block.row_weights + conv.tail_bytes.words * width) * 4);
    const int8_t* weight = op.byte_weight.data + block.channel * rows * cols * inputs;
    for (int64_t o = block.channel; o <= range.last; ++o) {
      const int64_t first = in.group_of(o) * inputs - range.from;
      for (int64_t ky = 0; ky < rows; ++ky) {
        for (int64_t kx = 0; kx < cols; ++kx) {
          for (int64_t c = 0; c < inputs; ++c, ++weight) {
            const Slot slot = slot_of(cut, block, rows, ky, kx, first + c);
            const int16_t wide = *weight;  // little-endian: its first byte is the narrow one
            std::memcpy(to + (slot.item * width + o - block.channel) * 4 + slot.in_word * size, &wide, size_t(size));
          }
        }
      }
    }
    block.weights = to;
  }
  if (conv.tiles.bytes && writes_much(in, conv, blocks)) conv.tiles.blocks = int32_t(blocks.size());
}

}  // namespace bbg
