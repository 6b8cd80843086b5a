/** Cases: golden/cases.json as data, and the requests it describes (docs/cases.md). */
#ifndef MR3D_CONFORM_CASE_H
#define MR3D_CONFORM_CASE_H

#include "mr3d/format.h"
#include "mr3d/tensor.h"

typedef struct mr3d_suite mr3d_suite; /**< all cases, the weight sets, the data folder */

typedef struct mr3d_case {
  const char *id, *title, *why, *level;
  const char *op; /**< mr3d_case_op */
  int n_pitfalls;
  const char *const *pitfalls;
  int n_tags;
  const char *const *tags;
  const char *config;  /**< JSON text */
  const char *weights; /**< weight set or NULL */
  bool needs_data;
  uint32_t tiers; /**< bit per mr3d_tier */
  int n_steps;
  const struct mr3d_step *steps;
} mr3d_case;

typedef struct mr3d_step {
  const char *op;
  const char *weights; /**< weight set of this `prefill` or `encode_points` (its own or the case's); NULL for every other operator */
  int n_inputs;
  const char *const *inputs; /**< names of its tensors */
  bool feeds;                /**< one of them is made of an earlier answer (argmax) */
  bool expect_error;
  int n_message;
  const char *const *message; /**< must be in the reference's message */
} mr3d_step;

/** golden_dir holds cases.json; data_dir (may be NULL) holds prompt_ids.json. Errors name file, case, key and what was expected. */
mr3d_status mr3d_suite_open(const char *golden_dir, const char *data_dir, mr3d_suite **, mr3d_error *);
void mr3d_suite_close(mr3d_suite **);
int mr3d_suite_count(const mr3d_suite *);
const mr3d_case *mr3d_suite_at(const mr3d_suite *, int index);
const mr3d_case *mr3d_suite_find(const mr3d_suite *, const char *id);
const char *mr3d_suite_golden_dir(const mr3d_suite *);
const char *mr3d_suite_data_dir(const mr3d_suite *);

/** The operator a case is about: the first part of its id ("attention-block/decode": attention_block), which one of its steps asks. */
const char *mr3d_case_op(const mr3d_case *);

/**
 * The request of one step at a tier: inputs drawn with `seed` and rounded to the tier's storage type, metadata op, tier,
 * config, session ..., weights = `weights_path`. `truth` holds the judging side's answers of the earlier steps (for recipes
 * `argmax`); entries may be NULL where not needed.
 * Errors: MR3D_UNSUPPORTED when the data folder is missing or lacks the prompt (the case is then skipped and counted).
 */
mr3d_status mr3d_case_request(const mr3d_suite *, const mr3d_case *, int step, mr3d_tier tier, uint64_t seed, const char *weights_path,
                              mr3d_bundle *const truth[], mr3d_bundle **request, mr3d_error *);

/**
 * Writes the file of a weight set at the tier's storage type below `directory`, once per (set, tier, seed) whichever process comes first, and gives its path.
 * `path` holds at least 4096 bytes. Requires: `set` is a step's `weights`.
 */
mr3d_status mr3d_suite_weights(const mr3d_suite *, const char *set, mr3d_tier tier, uint64_t seed, const char *directory, char *path,
                               mr3d_error *);
/** The same for the case's own set. */
mr3d_status mr3d_case_weights(const mr3d_suite *, const mr3d_case *, mr3d_tier tier, uint64_t seed, const char *directory, char *path,
                              mr3d_error *);

#endif
