/** What case.c, recipe.c and golden.c share: the parsed cases.json and what is loaded from beside it on demand. */
#ifndef MR3D_CONFORM_CASE_INTERNAL_H
#define MR3D_CONFORM_CASE_INTERNAL_H

#include <cjson/cJSON.h>

#include "case.h"

/** Loaded when first needed, so a suite that is only listed reads cases.json alone. */
struct mr3d_suite_files {
  cJSON *prompts;     /**< prompt_ids.json of the data folder */
  mr3d_bundle *scene; /**< `points`, `grid` and `coords` of scene/canonical.ply */
  cJSON *manifest;    /**< manifest.json */
};

struct mr3d_suite {
  char *golden_dir, *data_dir;
  cJSON *root;
  int n_cases;
  mr3d_case *cases;
  const cJSON **json; /**< the object of each case in `root` */
  struct mr3d_suite_files *files;
};

/** A JSON file, read strictly (duplicate keys and trailing bytes are errors). Ownership: on success *json is the caller's. */
mr3d_status mr3d_read_json(const char *path, cJSON **json, mr3d_error *error);

/** Where a recipe draws from. */
typedef struct mr3d_recipe_context {
  const mr3d_suite *suite;
  mr3d_tier tier;
  uint64_t seed;
  const char *stream;       /**< "CASE/STEP/TENSOR" or "SET/TENSOR" */
  const char *config;       /**< `embeds`: the marker ids */
  const char *weights_path; /**< `embeds`: the file holding model.embed_tokens.weight */
  int n_truth;              /**< `argmax`: answers of the earlier steps */
  mr3d_bundle *const *truth;
} mr3d_recipe_context;

/** Whether a recipe is well-formed; needs no files. Errors (MR3D_FORMAT) say which key and what was expected. */
mr3d_status mr3d_recipe_check(const cJSON *recipe, mr3d_error *error);

/** Adds the tensor `name` that a recipe describes to `into`. Errors: as above; MR3D_UNSUPPORTED when it needs the data folder. */
mr3d_status mr3d_recipe_make(const mr3d_recipe_context *context, const cJSON *recipe, const char *name, mr3d_bundle *into,
                             mr3d_error *error);

/** The greedy token of the last row of each sample: logits [B,K,V], K >= 1, tokens [B]; the lowest id where several are largest. */
void mr3d_greedy_tokens(const mr3d_tensor *logits, double *tokens);

#endif
