#include "generated_weights.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mr3d/format.h"
#include "mr3d/ops.h"

#define PREFIX "generated:"
#define DEFAULT_SET "generated"
/* No file bounds the sizes, so these do: 2^31 elements are 16 GiB in binary64. */
#define MAX_LAYERS 1024
#define MAX_ELEMENTS ((double)((int64_t)1 << 31))
/* Deviation of freshly initialised rotary parameters (spec.md 3.2). */
#define INITIAL_SPREAD 0.01

/* ---- names ---- */

bool mr3d_is_generated(const char *path) { return strncmp(path, PREFIX, strlen(PREFIX)) == 0; }

mr3d_status mr3d_generated_name_parse(const char *path, mr3d_generated_name *name, mr3d_error *error) {
  const char *seed = path + strlen(PREFIX);
  char *end;
  errno = 0;
  mr3d_generated_name parsed = {.seed = strtoull(seed, &end, 10), .set = DEFAULT_SET};
  bool good = *seed >= '0' && *seed <= '9' && errno == 0 && (*end == '\0' || *end == '/');
  if (good && *end == '/') {
    const size_t length = strlen(end + 1);
    good = length > 0 && length < sizeof parsed.set && strspn(end + 1, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == length;
    if (good) memcpy(parsed.set, end + 1, length + 1);
  }
  if (!good)
    return mr3d_fail(error, MR3D_INVALID, "expected generated:SEED or generated:SEED/SET, SEED a whole number below 2^64, SET of letters, digits and . _ -");
  *name = parsed;
  return MR3D_OK;
}

/* ---- declaring ---- */

static void declare(mr3d_drawn_tensors *drawn, const char *name, mr3d_dtype dtype, int rank, const int64_t *shape, mr3d_drawing drawing) {
  const int count = mr3d_bundle_count(drawn->tensors);
  if ((count & (count - 1)) == 0) {
    mr3d_drawing *larger = mr3d_allocate(count ? 2 * count : 1, sizeof *larger);
    if (count) memcpy(larger, drawn->drawings, (size_t)count * sizeof *larger);
    free(drawn->drawings);
    drawn->drawings = larger;
  }
  drawn->drawings[count] = drawing;
  mr3d_bundle_borrow(drawn->tensors, name, dtype, rank, shape, NULL);
}

void mr3d_drawn_tensors_free(mr3d_drawn_tensors *drawn) {
  for (int i = 0; drawn->tensors && i < mr3d_bundle_count(drawn->tensors); i++) free(drawn->drawings[i].base);
  free(drawn->drawings);
  mr3d_bundle_free(&drawn->tensors);
  *drawn = (mr3d_drawn_tensors){0};
}

/* The shape that a pattern has by the configuration. Errors: too large for what no file bounds. */
static mr3d_status shape_of(const mr3d_sizes *sizes, const char *tensor, const char *pattern, int64_t shape[MR3D_MAX_RANK], int *rank, mr3d_error *error) {
  char text[96];
  const int sized = mr3d_sizes_shape(sizes, pattern, shape);
  double elements = 1;
  for (int axis = 0; axis < sized; axis++) elements *= (double)shape[axis];
  if (sized < 0 || elements > MAX_ELEMENTS)
    return mr3d_fail(error, MR3D_INVALID, "%s would be %s: a generated tensor has at most 2^31 elements", tensor,
                     sized < 0 ? "larger than any memory" : mr3d_shape_text(sized, shape, text));
  *rank = sized;
  return MR3D_OK;
}

static mr3d_status bind_sizes(const mr3d_config *config, const char *const needed[], mr3d_sizes *sizes, mr3d_error *error) {
  for (; *needed; needed++) MR3D_TRY(mr3d_config_need(config, *needed, error));
  mr3d_sizes_bind_config(sizes, config);
  return mr3d_sizes_bind_split(sizes, config, error);
}

/* ---- the trained-like model ---- */

/* Three significant digits: what golden/cases.py writes into cases.json. */
static double rounded(double value) {
  char text[32];
  snprintf(text, sizeof text, "%.3g", value);
  return strtod(text, NULL);
}

/* Scale of heavy weights that make outputs of deviation `rms` from `columns` inputs of deviation `input_rms`. */
static double scale_for(double rms, int64_t columns, double input_rms) { return rounded(rms / (2.27 * sqrt((double)columns) * input_rms)); }

static mr3d_draw heavy(double scale) { return (mr3d_draw){.dist = MR3D_HEAVY, .scale = scale}; }
static mr3d_draw uniform(double lo, double hi) { return (mr3d_draw){.dist = MR3D_UNIFORM, .lo = lo, .hi = hi, .scale = 1}; }

/* How a layer's tensor is drawn: norms of trained spread, huge keys and small queries, so that scores have a deviation near 3.5. */
static mr3d_draw layer_draw(const char *name, const mr3d_config *config) {
  const int64_t hidden = config->hidden_size, wide = config->intermediate_size, q_dim = config->num_attention_heads * config->head_dim;
  const double up = scale_for(1, hidden, 2.4);
  const struct {
    const char *name;
    mr3d_draw draw;
  } recipes[] = {
      {"input_layernorm.weight", uniform(0.2, 4)},
      {"self_attn.q_proj.weight", heavy(scale_for(0.05, hidden, 2.4))},
      {"self_attn.q_proj.bias", heavy(0.01)},
      {"self_attn.k_proj.weight", heavy(scale_for(10, hidden, 2.4))},
      {"self_attn.k_proj.bias", heavy(30)},
      {"self_attn.v_proj.weight", heavy(scale_for(1, hidden, 2.4))},
      {"self_attn.v_proj.bias", heavy(0.2)},
      {"self_attn.o_proj.weight", heavy(scale_for(0.5, q_dim, 0.5))},
      {"self_attn.freqs_3d_q", uniform(0.02, 1)},
      {"self_attn.axial_weights_3d_q", uniform(0.5, 1.5)},
      {"self_attn.freqs_3d_kv", uniform(0.02, 1)},
      {"self_attn.axial_weights_3d_kv", uniform(0.5, 1.5)},
      {"post_attention_layernorm.weight", uniform(0.2, 4)},
      {"mlp.gate_proj.weight", heavy(rounded(1.5 * up))},
      {"mlp.up_proj.weight", heavy(up)},
      {"mlp.down_proj.weight", heavy(scale_for(1, wide, 1))},
  };
  size_t i = 0;
  while (strcmp(recipes[i].name, name) != 0) i++;
  return recipes[i].draw;
}

/* Declares one tensor of a model; its stream is SET/TENSOR. */
static mr3d_status declare_model_tensor(const mr3d_generated_name *from, const mr3d_sizes *sizes, mr3d_dtype dtype, const char *tensor, const char *pattern,
                                        mr3d_draw draw, mr3d_drawn_tensors *drawn, mr3d_error *error) {
  char stream[320];
  int64_t shape[MR3D_MAX_RANK];
  int rank;
  MR3D_TRY(shape_of(sizes, tensor, pattern, shape, &rank, error));
  snprintf(stream, sizeof stream, "%s/%s", from->set, tensor);
  declare(drawn, tensor, dtype, rank, shape, (mr3d_drawing){.draw = draw, .stream = mr3d_stream_named(from->seed, stream)});
  return MR3D_OK;
}

static mr3d_status declare_model(const mr3d_generated_name *from, const mr3d_config *config, mr3d_dtype dtype, mr3d_drawn_tensors *drawn, mr3d_error *error) {
  static const char *const needed[] = {"hidden_size",         "intermediate_size", "num_hidden_layers", "num_attention_heads",
                                       "num_key_value_heads", "head_dim",          "vocab_size",        NULL};
  mr3d_sizes sizes = {0};
  MR3D_TRY(bind_sizes(config, needed, &sizes, error));
  if (config->num_hidden_layers > MAX_LAYERS)
    return mr3d_fail(error, MR3D_INVALID, "num_hidden_layers is %lld; generated models have at most %d", (long long)config->num_hidden_layers, MAX_LAYERS);
  MR3D_TRY(declare_model_tensor(from, &sizes, dtype, "model.embed_tokens.weight", "V,hidden", heavy(0.1), drawn, error));
  for (int64_t layer = 0; layer < config->num_hidden_layers; layer++)
    for (int i = 0; i < MR3D_N_LAYER_SLOTS; i++) {
      const mr3d_slot *slot = &mr3d_layer_slots[i];
      const char *why;
      char name[128];
      if (slot->when != MR3D_ALWAYS && mr3d_rotary_presence(config, true, slot->when, &why) != MR3D_MUST) continue;
      snprintf(name, sizeof name, "model.layers.%lld.%s", (long long)layer, slot->name);
      MR3D_TRY(declare_model_tensor(from, &sizes, dtype, name, slot->shape, layer_draw(slot->name, config), drawn, error));
    }
  MR3D_TRY(declare_model_tensor(from, &sizes, dtype, "model.norm.weight", "hidden", uniform(-3, 3), drawn, error));
  if (config->tie_word_embeddings != 0) return MR3D_OK;
  return declare_model_tensor(from, &sizes, dtype, "lm_head.weight", "V,hidden", heavy(0.1), drawn, error);
}

mr3d_status mr3d_generated_model(const mr3d_generated_name *from, const mr3d_config *config, mr3d_tier tier, mr3d_drawn_tensors *out, mr3d_error *error) {
  mr3d_drawn_tensors drawn = {.tensors = mr3d_bundle_new()};
  const mr3d_status status = declare_model(from, config, mr3d_tier_storage(tier), &drawn, error);
  if (status == MR3D_OK) *out = drawn;
  else mr3d_drawn_tensors_free(&drawn);
  return status;
}

/* ---- the point encoder ---- */

static bool ends_in(const char *name, const char *end) {
  const size_t length = strlen(name), of_end = strlen(end);
  return length >= of_end && strcmp(name + length - of_end, end) == 0;
}

/* How an encoder's tensor is drawn: by its name's end and its rank. */
static mr3d_draw encoder_draw(const mr3d_tensor *tensor) {
  const int64_t *shape = tensor->shape;
  if (ends_in(tensor->name, ".kernel")) { /* [k^3,in,out]; a surface fills about k^2 of the taps */
    const int64_t k = shape[0] == 8 ? 2 : shape[0] == 27 ? 3 : 7;
    return heavy(scale_for(1, k * k * shape[1], 1));
  }
  if (tensor->rank == 5) return heavy(scale_for(1, 9 * shape[4], 1)); /* [out,3,3,3,in] */
  if (tensor->rank == 1) return ends_in(tensor->name, ".weight") ? uniform(0.2, 2) : heavy(0.1);
  if (ends_in(tensor->name, ".attn.qkv.weight")) return heavy(scale_for(1.5, shape[1], 1));
  if (strncmp(tensor->name, "point_proj.", 11) == 0) return heavy(scale_for(ends_in(tensor->name, ".0.weight") ? 1 : 0.1, shape[1], 1));
  return heavy(scale_for(1, shape[1], 1));
}

static mr3d_status declare_encoder(const mr3d_generated_name *from, const mr3d_bundle *list, mr3d_dtype dtype, mr3d_drawn_tensors *drawn, mr3d_error *error) {
  for (int i = 0; i < mr3d_bundle_count(list); i++) {
    const mr3d_tensor *tensor = mr3d_bundle_at(list, i);
    char stream[320], shape[96];
    double elements = 1;
    for (int axis = 0; axis < tensor->rank; axis++) elements *= (double)tensor->shape[axis];
    if (elements > MAX_ELEMENTS)
      return mr3d_fail(error, MR3D_INVALID, "%s would be %s: a generated tensor has at most 2^31 elements", tensor->name, mr3d_shape_text(tensor->rank, tensor->shape, shape));
    snprintf(stream, sizeof stream, "%s/%s", from->set, tensor->name);
    declare(drawn, tensor->name, dtype, tensor->rank, tensor->shape, (mr3d_drawing){.draw = encoder_draw(tensor), .stream = mr3d_stream_named(from->seed, stream)});
  }
  return MR3D_OK;
}

mr3d_status mr3d_generated_encoder(const mr3d_generated_name *from, const mr3d_config *config, mr3d_tier tier, mr3d_drawn_tensors *out, mr3d_error *error) {
  MR3D_TRY(mr3d_config_need(config, "hidden_size", error));
  MR3D_TRY(mr3d_config_need(config, "point_backbone", error));
  mr3d_drawn_tensors drawn = {.tensors = mr3d_bundle_new()};
  mr3d_bundle *list = mr3d_encoder_tensors(config, config->hidden_size, config->hidden_size);
  const mr3d_status status = declare_encoder(from, list, mr3d_tier_storage(tier), &drawn, error);
  mr3d_bundle_free(&list);
  if (status == MR3D_OK) *out = drawn;
  else mr3d_drawn_tensors_free(&drawn);
  return status;
}

/* ---- fresh rotary parameters ---- */

/* The drawing of one: frequencies around the base, weights around 1. */
static mr3d_drawing initial_drawing(const mr3d_slot *slot, const char *name, uint64_t seed, const double *base, int64_t F) {
  mr3d_drawing drawing = {.draw = {.dist = MR3D_NORMAL, .scale = INITIAL_SPREAD, .shift = 1}, .stream = mr3d_stream_named(seed, name)};
  if (slot->when != MR3D_IF_LEARNED) return drawing;
  drawing.draw.shift = 0;
  drawing.n_base = F;
  drawing.base = mr3d_allocate(F, sizeof *drawing.base);
  memcpy(drawing.base, base, (size_t)F * sizeof *base);
  return drawing;
}

/* Declares what one layer lacks of `held`. `base` [F]. */
static mr3d_status declare_initial(uint64_t seed, const mr3d_config *config, const mr3d_bundle *held, const mr3d_sizes *sizes, int64_t layer, const double *base,
                                   mr3d_drawn_tensors *drawn, mr3d_error *error) {
  for (int i = 0; i < MR3D_N_LAYER_SLOTS; i++) {
    const mr3d_slot *slot = &mr3d_layer_slots[i];
    const char *why;
    char name[128];
    int64_t shape[MR3D_MAX_RANK];
    int rank;
    snprintf(name, sizeof name, "model.layers.%lld.%s", (long long)layer, slot->name);
    if (slot->when == MR3D_ALWAYS || mr3d_rotary_presence(config, true, slot->when, &why) != MR3D_MUST || mr3d_bundle_find(held, name)) continue;
    MR3D_TRY(shape_of(sizes, name, slot->shape, shape, &rank, error));
    declare(drawn, name, MR3D_F64, rank, shape, initial_drawing(slot, name, seed, base, mr3d_sizes_get(sizes, "F")));
  }
  return MR3D_OK;
}

mr3d_status mr3d_initial_rotary(uint64_t seed, const mr3d_config *config, const mr3d_bundle *held, mr3d_drawn_tensors *out, mr3d_error *error) {
  static const char *const needed[] = {"num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", NULL};
  mr3d_sizes sizes = {0};
  MR3D_TRY(bind_sizes(config, needed, &sizes, error));
  if (config->num_hidden_layers > mr3d_bundle_count(held)) /* the number alone must not claim memory */
    return mr3d_fail(error, MR3D_INVALID, "num_hidden_layers is %lld, but there are only %d tensors", (long long)config->num_hidden_layers, mr3d_bundle_count(held));
  mr3d_drawn_tensors drawn = {.tensors = mr3d_bundle_new()};
  const int64_t F = mr3d_sizes_get(&sizes, "F");
  double *base = mr3d_allocate(3 * F, sizeof *base); /* [3,1,F], the same for each axis and head */
  mr3d_status status = config->rope_3d_kind == MR3D_AXIAL ? MR3D_OK : mr3d_base_frequencies(config, 1, F, base, error);
  for (int64_t layer = 0; layer < config->num_hidden_layers && status == MR3D_OK; layer++)
    status = declare_initial(seed, config, held, &sizes, layer, base, &drawn, error);
  free(base);
  if (status == MR3D_OK) *out = drawn;
  else mr3d_drawn_tensors_free(&drawn);
  return status;
}

/* ---- drawing ---- */

void mr3d_drawing_rows(const mr3d_drawing *drawing, const mr3d_tensor *tensor, int64_t first, int64_t count, double *values) {
  mr3d_tensor rows = *tensor;
  rows.shape[0] = count;
  const int64_t elements = mr3d_tensor_count(&rows);
  rows.data = tensor->dtype == MR3D_F64 ? values : mr3d_allocate(elements, mr3d_dtype_size(tensor->dtype));
  mr3d_random_draw_rows(&drawing->draw, drawing->stream, first, &rows);
  for (int64_t i = 0; drawing->base && i < elements; i++) values[i] += drawing->base[i % drawing->n_base];
  if (tensor->dtype == MR3D_F64) return;
  mr3d_tensor_to_double(&rows, values);
  free(rows.data);
}
