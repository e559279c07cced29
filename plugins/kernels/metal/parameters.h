// Sizes and choices of one call, as the host writes them: 4-byte fields only, so that Swift and C++ lay them out alike.
#pragma once

struct SourceParameters {
  int fresh;         // P: rows of an image; table entries from here on are halo pixels
  int pixels;        // N: pixels of a base
  int targets;       // R, padded to the bucket
  int taps;          // K; 1 without a table
  int channels;      // C, of both sources together
  int channels_2;    // of the second source, or 0
  int has_table;
  int scale_batch;   // 0: no scale; 1: one for all images; more: one for each
  int shift_batch;
  int activation;    // see activation.h
  float alpha;       // slope of leaky_relu
};

struct GatherParameters {
  SourceParameters source;
  int phases;
  int padding;       // the bits of the half that padding entries are
};

struct ConvParameters {
  SourceParameters source;
  int outputs;
  int group;
  int has_bias;
  int embedding_batch;  // 0: no embedding; 1: one for all images; more: one for each
  int has_multiplier;
  int has_residual;
  int activation;
  float alpha;
  float norm_epsilon;   // above 0: products are divided by the deviation of their row
  int gated;            // whether weight and bias have 2 * outputs columns, whose second half gates the first
  int gate;             // see activation.h
};

struct ScatterParameters {
  int pixels;
  int fresh;
  int channels;
  int width;         // pixels of a line of the output's image
};

// The channels of an array of which a kernel reads some, from `offset` on.
struct PartParameters {
  int channels;
  int offset;
};

struct AttentionParameters {
  int fresh;
  int pixels;        // of k_base and v_base
  int heads;
  int dk;
  int dv;
  int overlaid;      // whether k, v and active are given
  float scale;
  PartParameters q, k, v, k_base, v_base;
};
