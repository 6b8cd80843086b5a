/**
 * What docs/protocol.md says must be refused: one row a rule. Each row takes a request that is answered, makes one edit, and demands
 * a refusal whose message holds what was found and what was expected. After a refusal in a session the session goes on as if
 * nothing had been asked.
 */
#include "fixture.h"

/* ---- requests that are answered ---- */

static char weights_path[64];

static void add_meta(mr3d_bundle *r, const char *key, const char *value) { mr3d_bundle_set(r, key, value); }

enum { Q = 5, PAST = 3, N = 2, TEXT = 9 };

#define ENCODER_SIZES "\"enc_depths\":[1,1],\"enc_channels\":[4,6],\"enc_num_head\":[2,3]"
#define ENCODER_CONFIG "{\"hidden_size\":8,\"num_bins\":16,\"downsamplings\":1,\"point_config\":{" ENCODER_SIZES "}}"

static mr3d_bundle *base_of(const char *op) {
  const bool again = strcmp(op, "prefill again") == 0, spliced = strstr(op, " spliced") != NULL;
  char name[32];
  snprintf(name, sizeof name, "%.*s", (int)strcspn(op, " "), op);
  mr3d_bundle *r = request(name, spliced ? CONFIG_WITH("\"decode_mask\":\"spliced\"") : CONFIG);
  const int64_t counts[] = {N, N}, ids[] = {1, 2, 40, 42, 41, 3, 4, 5, 6};
  if (strcmp(name, "splice") == 0) {
    add_meta(r, "config", "{\"vocab_size\":50,\"point_start_token_id\":40,\"point_end_token_id\":41,\"point_token_id\":42}");
    add_integers(r, "input_ids", ids, SHAPE(1, TEXT));
    add_filled(r, "attention_mask", 1, SHAPE(1, TEXT));
    add_integers(r, "point_counts", counts, SHAPE(1));
    add_integers(r, "labels", ids, SHAPE(1, TEXT));
  } else if (strcmp(name, "mask") == 0) {
    add_meta(r, "past_len", "3");
    add_meta(r, "q_len", "5");
    add_filled(r, "key_mask", 1, SHAPE(2, 4));
    if (spliced) add_filled(r, "prefill_mask", 1, SHAPE(2, PAST));
  } else if (strcmp(name, "rope1d") == 0) {
    add_reals(r, "x", 1, SHAPE(2, H, Q, D));
    add_filled(r, "position_ids", 7, SHAPE(1, Q));
  } else if (strcmp(op, "cis3d base") == 0) {
    add_meta(r, "config", CONFIG_WITH("\"rope_mixed_3d\":false"));
    add_meta(r, "heads", "4");
    add_filled(r, "coords", 7, SHAPE(N, 3));
  } else if (strcmp(name, "cis3d") == 0) {
    add_reals(r, "freqs", 1, SHAPE(3, H, F));
    add_reals(r, "axial_weights", 1, SHAPE(H, F, 3));
    add_reals(r, "coords", 9, SHAPE(N, 3));
  } else if (strcmp(name, "rope3d") == 0) {
    add_reals(r, "x", 1, SHAPE(2, H, N, 2 * F));
    add_reals(r, "cos", 1, SHAPE(H, N, F));
    add_reals(r, "sin", 1, SHAPE(H, N, F));
  } else if (strcmp(name, "normalize_coords") == 0) {
    add_filled(r, "coords", 7, SHAPE(2, N, 3));
    add_integers(r, "point_counts", counts, SHAPE(2));
  } else if (strcmp(name, "mixed_rope") == 0) {
    add_reals(r, "query", 1, SHAPE(1, H, Q, D));
    add_reals(r, "key", 1, SHAPE(1, G, Q, D));
    add_filled(r, "position_ids", 7, SHAPE(1, Q));
    add_points(r, 1, Q, 1, N, counts);
    add_reals(r, "freqs_q", 1, SHAPE(3, H, F));
    add_reals(r, "axial_weights_q", 1, SHAPE(H, F, 3));
    add_reals(r, "freqs_kv", 1, SHAPE(3, G, F));
    add_reals(r, "axial_weights_kv", 1, SHAPE(G, F, 3));
  } else if (strcmp(name, "rmsnorm") == 0) {
    add_reals(r, "x", 1, SHAPE(2, 3, 7));
    add_reals(r, "weight", 1, SHAPE(7));
  } else if (strcmp(name, "linear") == 0) {
    add_reals(r, "x", 1, SHAPE(2, 3, 7));
    add_reals(r, "weight", 1, SHAPE(4, 7));
    add_reals(r, "bias", 1, SHAPE(4));
  } else if (strcmp(name, "swiglu") == 0) {
    add_reals(r, "gate", 1, SHAPE(2, 7));
    add_reals(r, "up", 1, SHAPE(2, 7));
  } else if (strcmp(name, "attention") == 0) {
    add_meta(r, "config", "{}");
    add_reals(r, "query", 1, SHAPE(1, H, Q, D));
    add_reals(r, "key", 1, SHAPE(1, G, PAST + Q, D));
    add_reals(r, "value", 1, SHAPE(1, G, PAST + Q, D));
    mr3d_bundle_add(r, "visible", MR3D_BOOL, SHAPE(1, Q, PAST + Q));
  } else if (strcmp(name, "attention_block") == 0 || strcmp(name, "decoder_layer") == 0) {
    add_reals(r, "hidden", 1, SHAPE(1, Q, HIDDEN));
    add_layer(r, "", (layer_options){.dtype = MR3D_F64});
    add_reals(r, "past_key", 1, SHAPE(1, G, PAST, D));
    add_reals(r, "past_value", 1, SHAPE(1, G, PAST, D));
    add_filled(r, "key_mask", 1, SHAPE(1, PAST + Q));
    add_filled(r, "position_ids", 7, SHAPE(1, Q));
    add_points(r, 1, Q, 1, N, counts);
  } else if (strcmp(name, "prefill") == 0) {
    add_meta(r, "session", "chat");
    add_meta(r, "weights", weights_path);
    add_reals(r, "inputs_embeds", 1, SHAPE(1, Q, HIDDEN));
    add_filled(r, "attention_mask", 1, SHAPE(1, again ? 2 * Q : Q));
    add_points(r, 1, Q, 1, N, counts);
  } else if (strcmp(name, "decode") == 0) {
    add_meta(r, "session", "chat");
    add_meta(r, "config", "{}");
    add_integers(r, "input_ids", ids, SHAPE(1, 1));
    add_filled(r, "attention_mask", 1, SHAPE(1, 4));
  } else if (strcmp(name, "drop_session") == 0) {
    add_meta(r, "session", "chat");
    add_meta(r, "config", "{}");
  } else if (strcmp(name, "voxelize") == 0) {
    double *points = mr3d_bundle_add(r, "points", MR3D_F64, SHAPE(12, 6))->data;
    for (int i = 0; i < 12 * 6; i++) points[i] = i % 6 < 3 ? 0.3 * i : i;
  } else if (strcmp(name, "token_coords") == 0) {
    add_filled(r, "grid", 17, SHAPE(3, 3));
    add_meta(r, "stages", "4");
  } else if (strcmp(name, "encode_points") == 0) {
    const int64_t grid[] = {0, 1, 2, 0, 1, 3, 5, 0, 0};
    add_meta(r, "config", ENCODER_CONFIG);
    add_meta(r, "encoder", "sonata");
    add_meta(r, "weights", "generated:7");
    add_integers(r, "grid", grid, SHAPE(3, 3));
    add_reals(r, "features", 1, SHAPE(3, 6));
  } else {
    fail_msg("no base request for %s", op);
  }
  return r;
}

/* Ops whose base needs the session `chat` open. */
static bool needs_session(const char *op) {
  return strcmp(op, "prefill again") == 0 || strcmp(op, "decode") == 0 || strcmp(op, "decode spliced") == 0 || strcmp(op, "drop_session") == 0;
}

static mr3d_server *server_for(const char *op) {
  mr3d_server *server = new_server();
  if (needs_session(op)) {
    mr3d_bundle *a = answer(server, base_of(strstr(op, "spliced") ? "prefill spliced" : "prefill"));
    mr3d_bundle_free(&a);
  }
  return server;
}

/* ---- edits: "drop NAME", "put NAME TYPE 1,2,3 [value]", "poke NAME INDEX VALUE", "meta KEY VALUE", "unset KEY", apart by ';' ---- */

static mr3d_bundle *copy_without(mr3d_bundle *old, const char *tensor, const char *key) {
  mr3d_bundle *copy = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_meta_count(old); i++) {
    const char *k, *v;
    mr3d_bundle_meta_at(old, i, &k, &v);
    if (strcmp(k, key) != 0) mr3d_bundle_set(copy, k, v);
  }
  bool found = !*tensor;
  for (int i = 0; i < mr3d_bundle_count(old); i++)
    if (strcmp(mr3d_bundle_at(old, i)->name, tensor) == 0)
      found = true;
    else
      mr3d_bundle_copy(copy, NULL, mr3d_bundle_at(old, i));
  if (!found) fail_msg("an edit drops %s, which is not there", tensor);
  mr3d_bundle_free(&old);
  return copy;
}

static mr3d_bundle *edit(mr3d_bundle *r, const char *script) {
  char text[600], *rest = text;
  snprintf(text, sizeof text, "%s", script);
  for (char *command; (command = strsep(&rest, ";")) != NULL;) {
    char *verb = strsep(&command, " "), *name = strsep(&command, " ");
    if (strcmp(verb, "drop") == 0) {
      r = copy_without(r, name, "");
    } else if (strcmp(verb, "put") == 0) {
      if (mr3d_bundle_find(r, name)) r = copy_without(r, name, "");
      mr3d_dtype dtype = mr3d_dtype_named(strsep(&command, " "));
      assert_true(dtype != MR3D_N_DTYPES);
      int64_t shape[MR3D_MAX_RANK];
      int rank = 0;
      char *sizes = strsep(&command, " ");
      for (char *size; (size = strsep(&sizes, ",")) != NULL;) shape[rank++] = atoll(size);
      mr3d_tensor *tensor = mr3d_bundle_add(r, name, dtype, rank, shape);
      int64_t count = mr3d_tensor_count(tensor);
      double *values = mr3d_allocate(count, sizeof *values);
      for (int64_t i = 0; i < count; i++) values[i] = command ? atof(command) : 0;
      mr3d_tensor_from_double(tensor, values);
      free(values);
    } else if (strcmp(verb, "poke") == 0) {
      mr3d_tensor *tensor = mr3d_bundle_find(r, name);
      assert_non_null(tensor);
      int64_t index = atoll(strsep(&command, " "));
      assert_true(index < mr3d_tensor_count(tensor));
      if (tensor->dtype == MR3D_I64) ((int64_t *)tensor->data)[index] = atoll(command);
      if (tensor->dtype == MR3D_F64) ((double *)tensor->data)[index] = atof(command);
      if (tensor->dtype == MR3D_BOOL) ((unsigned char *)tensor->data)[index] = (unsigned char)atoi(command);
    } else if (strcmp(verb, "meta") == 0) {
      mr3d_bundle_set(r, name, command);
    } else if (strcmp(verb, "unset") == 0) {
      assert_non_null(mr3d_bundle_get(r, name));
      r = copy_without(r, "", name);
    } else {
      fail_msg("unknown edit %s", verb);
    }
  }
  return r;
}

/* ---- the rules ---- */

typedef struct rule {
  const char *op, *edit, *message[5];
} rule;

static const rule rules[] = {
    /* the envelope */
    {"swiglu", "unset op", {"metadata op is missing"}},
    {"swiglu", "meta op swigl", {"op \"swigl\" is unknown", "splice", "token_coords"}},
    {"swiglu", "unset tier", {"metadata tier is missing"}},
    {"swiglu", "meta tier fp8", {"tier is \"fp8\"", "fp64, fp32, tf32, bf16, fp16"}},
    {"swiglu", "unset config", {"metadata config is missing"}},
    {"swiglu", "meta config [1]", {"config"}},
    {"swiglu", "meta config {\"coord_nrom\":\"grid\"}", {"coord_nrom", "coord_norm"}},
    {"swiglu", "meta config {\"hidden_act\":\"gelu\"}", {"hidden_act", "silu"}},
    {"swiglu", "meta protocol 2", {"protocol is \"2\"", "expected \"1\""}},
    {"swiglu", "meta type answer", {"type is \"answer\"", "expected \"request\""}},

    /* tensors: missing, unexpected, of another type, of another shape */
    {"splice", "drop input_ids", {"input_ids is missing", "[B,T]", "the request holds attention_mask, point_counts, labels"}},
    {"splice", "drop attention_mask", {"attention_mask is missing"}},
    {"splice", "drop point_counts", {"point_counts is missing"}},
    {"splice", "put ids I64 1,9", {"ids I64 [1,9] is unexpected", "splice takes no tensor of that name"}},
    {"splice", "put input_ids I32 1,9", {"input_ids is I32, expected I64"}},
    {"splice", "put attention_mask BOOL 1,9", {"attention_mask is BOOL, expected I64"}},
    {"splice", "put attention_mask I64 1,8", {"attention_mask has shape [1,8], expected [B,T] with B = 1 (input_ids), T = 9 (input_ids)"}},
    {"splice", "put point_counts I64 2", {"point_counts has shape [2], expected [B] with B = 1 (input_ids)"}},
    {"splice", "put labels I64 1,10", {"labels has shape [1,10], expected [B,T]", "T = 9"}},
    {"splice", "poke attention_mask 3 2", {"attention_mask[0,3] is 2, expected 0 or 1"}},
    {"splice", "poke input_ids 3 50", {"input_ids[0,3] is 50", "0 .. 49", "vocab_size 50"}},
    {"splice", "poke input_ids 3 -1", {"input_ids[0,3] is -1"}},
    {"splice", "poke point_counts 0 -1", {"point_counts[0] is -1, expected 0 or more"}},
    {"splice", "poke point_counts 0 9000000000000000000", {"point_counts", "9000000000000000000"}},
    {"splice", "poke input_ids 2 7", {"0 start markers", "1 end markers", "sample 0"}},
    {"splice", "poke input_ids 0 40", {"2 start markers", "sample 0"}},
    {"splice", "poke input_ids 2 41;poke input_ids 4 40", {"end marker at index 2", "start marker at 4"}},

    {"mask", "unset past_len", {"metadata past_len is missing"}},
    {"mask", "unset q_len", {"metadata q_len is missing"}},
    {"mask", "meta past_len -1", {"past_len is -1"}},
    {"mask", "meta past_len 3.5", {"past_len is \"3.5\", expected an integer"}},
    {"mask", "meta past_len 3x", {"past_len is \"3x\", expected an integer"}},
    {"mask", "meta q_len 99999999999999999999", {"q_len is \"99999999999999999999\""}},
    {"mask", "meta q_len 16000000;meta past_len 16000000", {"visible", "4 GiB"}},
    {"mask", "put key_mask I64 2,9 1", {"key_mask has 9 columns, at most 8 = past 3 + new 5"}},
    {"mask", "meta past_len 0", {"key_mask has 4 columns for 5 tokens at prefill"}},
    {"mask", "poke key_mask 5 -1", {"key_mask[1,1] is -1, expected 0 or 1"}},
    {"mask", "put prefill_mask I64 2,3 1", {"prefill_mask I64 [2,3] is unexpected", "pad_end", "spliced"}},
    {"mask spliced", "put prefill_mask I64 2,9 1", {"prefill_mask has 9 columns, at most 8 = past 3 + new 5"}},
    {"mask spliced", "put key_mask I64 2,9 1", {"key_mask has 9 columns, at most 8 = past 3 + new 5"}},
    {"mask spliced", "put prefill_mask I64 1,3 1", {"prefill_mask has shape [1,3], expected [B,L0] with B = 2 (key_mask)"}},
    {"mask spliced", "poke prefill_mask 2 2", {"prefill_mask[0,2] is 2"}},
    {"mask", "meta config {\"decode_mask\":\"padend\"}", {"decode_mask", "pad_end", "spliced"}},

    {"rope1d", "meta config {}", {"rope_theta"}},
    {"rope1d", "put x F32 2,4,5,16", {"x is F32, expected F64", "tier is fp64"}},
    {"rope1d", "meta tier bf16", {"x is F64, expected BF16", "tier is bf16"}},
    {"rope1d", "meta tier tf32", {"x is F64, expected F32", "tier is tf32"}},
    {"rope1d", "put x F64 4,5,16", {"x has shape [4,5,16], expected [B,heads,q,D]"}},
    {"rope1d", "put x F64 2,4,5,32", {"x has shape [2,4,5,32]", "D = 16 (config head_dim)"}},
    {"rope1d", "meta config {\"rope_theta\":100};put x F64 2,4,5,15", {"15", "even"}},
    {"rope1d", "put position_ids I64 3,5", {"position_ids has shape [3,5], expected [B,q] or [1,q] with B = 2 (x), q = 5 (x)"}},
    {"rope1d", "put position_ids I64 2,4", {"position_ids has shape [2,4]"}},
    {"rope1d", "put position_ids F64 1,5", {"position_ids is F64, expected I64"}},
    {"rope1d", "poke position_ids 4 -3", {"position_ids[0,4] is -3, expected 0 or more"}},
    {"rope1d", "poke x 17 nan", {"x[0,0,1,1] is NaN"}},
    {"rope1d", "poke x 639 -inf", {"x[1,3,4,15] is -infinity"}},

    {"cis3d", "drop coords", {"coords is missing"}},
    {"cis3d", "put coords F16 2,3", {"coords is F16, expected I64 or F32 or F64"}},
    {"cis3d", "put coords F64 2,4", {"coords has shape [2,4], expected [N,3]"}},
    {"cis3d", "put coords F64 1,2,3", {"coords has shape [1,2,3], expected [N,3]"}},
    {"cis3d", "poke coords 0 inf", {"coords[0,0] is infinity"}},
    {"cis3d", "put freqs F64 2,4,4", {"freqs has shape [2,4,4], expected [3,heads,F] or [1,heads,F]"}},
    {"cis3d", "put axial_weights F64 4,3,4", {"axial_weights has shape [4,3,4], expected [heads,F,3] with heads = 4 (freqs), F = 4 (half of Ds = 8)"}},
    {"cis3d", "put freqs F64 3,4,5", {"freqs has shape [3,4,5]", "F = 4 (half of Ds = 8)"}},
    {"cis3d", "meta heads 5", {"freqs has shape [3,4,4]", "heads = 5 (metadata heads)"}},
    {"cis3d", "meta config {\"rope_mixed_3d\":false}", {"freqs F64 [3,4,4] is unexpected", "rope_mixed_3d is false"}},
    {"cis3d", "meta config {\"rope_3d_kind\":\"axial\"}", {"freqs", "is unexpected", "axial"}},
    {"cis3d base", "unset heads", {"metadata heads is missing"}},
    {"cis3d base", "meta heads -2", {"heads is -2"}},
    {"cis3d base", "meta config {\"rope_mixed_3d\":false}", {"head_dim"}},
    {"cis3d base", "meta config {\"head_dim\":16}", {"freqs is missing", "rope_mixed_3d true means learned"}},
    {"cis3d base", "put coords I64 0,3;meta heads 16000000;meta config {\"head_dim\":1000000}", {"16000000 heads of 250000 frequency bins"}},
    {"cis3d base", "meta config {\"head_dim\":8,\"rope_3d_kind\":\"axial\"}", {"axial", "4 spatial dimensions"}},
    {"cis3d base", "meta config {\"head_dim\":10,\"rope_mixed_3d\":false}", {"10", "even"}},

    {"rope3d", "put x F64 2,4,2,7", {"Ds of x is 7, expected an even number"}},
    {"rope3d", "put cos F64 4,2,3", {"cos has shape [4,2,3], expected [heads,N,F]", "F = 4 (half of x's Ds)"}},
    {"rope3d", "put sin F64 4,3,4", {"sin has shape [4,3,4], expected [heads,N,F]", "N = 2 (x)"}},
    {"rope3d", "put cos F64 2,4,4", {"cos has shape [2,4,4]"}}, /* [N,heads,F]: the transposed product */
    {"rope3d", "put cos BF16 4,2,4", {"cos is BF16, expected F32 or F64"}},
    {"rope3d", "poke sin 5 nan", {"sin[0,1,1] is NaN"}},
    {"rope3d", "drop sin", {"sin is missing"}},

    {"normalize_coords", "put coords F64 2,3", {"point_counts has shape [2], expected [B] with B = 1"}},
    {"normalize_coords", "put coords F64 2,2,2", {"coords has shape [2,2,2], expected [N,3] (B = 1 only) or [B,N,3]"}},
    {"normalize_coords", "poke point_counts 1 3", {"point_counts[1] is 3", "2 rows"}},
    {"normalize_coords", "poke point_counts 1 -3", {"point_counts[1] is -3"}},
    {"normalize_coords", "meta config {\"reduced_grid_size\":1}", {"reduced_grid_size is 1"}},
    {"normalize_coords", "meta config {\"coord_norm\":\"virtual_resolution\"}", {"virtual_resolution"}},
    {"normalize_coords", "meta config {\"num_bins\":100}", {"100", "2^4"}},

    /* point tensors */
    {"mixed_rope", "drop point_coords", {"point_coords is missing, expected a tensor [N,3] (one sample) or [B,N,3]", "come together"}},
    {"mixed_rope", "drop point_token_mask", {"point_token_mask is missing", "come together"}},
    {"mixed_rope", "drop point_token_mask;drop point_coords;put point_counts I64 1 2", {"point_counts", "is unexpected", "needs point_token_mask and point_coords"}},
    {"mixed_rope", "put point_coords I64 106328,3", {"point_coords has 106328 rows, point_token_mask marks 2", "sample 0", "coordinates of the raw scan do not belong here"}},
    {"mixed_rope", "put point_coords I64 1,1,3", {"point_coords has 1 row, point_token_mask marks 2"}},
    {"mixed_rope", "poke point_token_mask 0 1", {"point_coords has 2 rows, point_token_mask marks 3"}},
    {"mixed_rope", "put point_counts I64 1 1", {"1 row,", "marks 2"}},
    {"mixed_rope", "put point_counts I64 1 3", {"point_counts[0] is 3", "2 rows"}},
    {"mixed_rope", "put point_counts I64 1 -1", {"point_counts[0] is -1"}},
    {"mixed_rope", "put point_coords I64 2,2,3", {"point_coords has shape [2,2,3], expected [N,3] (B = 1 only) or [B,N,3] with B = 1 (query)"}},
    {"mixed_rope", "put query F64 2,4,5,16;put key F64 2,2,5,16;put point_token_mask BOOL 2,5 1;put point_coords I64 5,3",
     {"point_coords has shape [5,3], expected [N,3] (B = 1 only) or [B,N,3] with B = 2 (query)"}},
    {"mixed_rope", "put point_token_mask BOOL 1,6", {"point_token_mask has shape [1,6], expected [B,q] with B = 1 (query), q = 5 (query)"}},
    {"mixed_rope", "put point_token_mask I64 1,5", {"point_token_mask is I64, expected BOOL"}},
    {"mixed_rope", "poke point_token_mask 3 7", {"point_token_mask[0,3] is the byte 7"}},
    {"mixed_rope", "put point_coords BF16 1,2,3", {"point_coords is BF16, expected I64 or F32 or F64"}},
    {"mixed_rope", "put point_coords F64 1,2,3;poke point_coords 4 nan", {"point_coords[0,1,1] is NaN"}},
    {"mixed_rope", "put point_token_mask BOOL 1,5 0", {"point_coords has 2 rows, point_token_mask marks 0"}},
    {"attention_block", "put point_coords I64 3,3", {"point_coords has 3 rows, point_token_mask marks 2"}},
    {"prefill", "put point_coords I64 3,3", {"point_coords has 3 rows, point_token_mask marks 2"}},
    {"decode", "put input_ids I64 1,0", {"B = 1 samples of q = 0 new tokens; both must be at least 1"}},
    {"decode", "put point_token_mask BOOL 1,1;put point_coords I64 0,3", {"point_token_mask BOOL [1,1] is unexpected"}},

    /* rotary parameters */
    {"mixed_rope", "drop freqs_q", {"freqs_q is missing", "[A,H,F]", "learned"}},
    {"mixed_rope", "drop axial_weights_q", {"axial_weights_q is missing"}},
    {"mixed_rope", "drop freqs_kv", {"freqs_kv is missing"}},
    {"mixed_rope", "drop axial_weights_kv", {"axial_weights_kv is missing"}},
    {"mixed_rope", "put freqs_kv F64 3,4,4", {"freqs_kv has shape [3,4,4], expected [A,G,F]", "G = 2 (config num_key_value_heads)"}},
    {"mixed_rope", "put freqs_q F64 1,4,4", {"freqs_q has shape [1,4,4], expected [A,H,F] with A = 3 (mixedRoPE_3d_learned_per_axis)"}},
    {"mixed_rope", "put freqs_q F64 3,16", {"freqs_q has shape [3,16], expected [A,H,F]"}}, /* flattened only in layers */
    {"mixed_rope", "put freqs_q F64 3,4,8", {"freqs_q has shape [3,4,8]", "F = 4 (half of Ds = 8)"}},
    {"mixed_rope", "meta config {\"rope_theta\":100,\"mixedRoPE_3d_learned_per_axis\":false}", {"freqs_q has shape [3,4,4]", "A = 1"}},
    {"mixed_rope", "meta config {\"rope_theta\":100,\"mixedRoPE_3d_learned_axial_mixing_weight\":false}",
     {"axial_weights_q F64 [4,4,3] is unexpected", "mixedRoPE_3d_learned_axial_mixing_weight is false"}},
    {"mixed_rope", "meta config {\"rope_theta\":100,\"rope_mixed_3d\":false}", {"freqs_q", "is unexpected", "rope_mixed_3d is false"}},
    {"mixed_rope", "meta config {\"rope_theta\":100,\"rope_3d_kind\":\"axial\"}", {"freqs_q", "is unexpected", "axial"}},
    {"mixed_rope", "meta config {\"rope_theta\":100,\"spatial_temporal_separate_strategy\":\"full_temporal\"}", {"freqs_q", "is unexpected", "full_temporal"}},
    {"mixed_rope", "meta config {\"rope_theta\":100,\"spatial_temporal_separate_strategy\":\"custom_ratio\",\"spatial_ratio\":0}",
     {"freqs_q", "is unexpected", "spatial_ratio 0"}},
    {"mixed_rope", "meta config {\"rope_theta\":100,\"spatial_temporal_separate_strategy\":\"custom_ratio\"}", {"spatial_ratio"}},
    {"mixed_rope", "meta config {\"rope_theta\":100,\"spatial_temporal_separate_strategy\":\"custom_ratio\",\"spatial_ratio\":0.45}", {"0.45"}},
    {"mixed_rope", "meta config {\"rope_mixed_3d\":\"Flase\"}", {"rope_mixed_3d", "Flase", "true, false"}},
    {"attention_block", "drop self_attn.freqs_3d_kv", {"self_attn.freqs_3d_kv is missing"}},
    {"attention_block", "put self_attn.freqs_3d_q F64 3,15", {"self_attn.freqs_3d_q has shape [3,15], expected [A,H,F] or [A,H*F]"}},
    {"attention_block", "put self_attn.axial_weights_3d_q F64 3,4,4", {"self_attn.axial_weights_3d_q has shape [3,4,4], expected [H,F,3]"}},

    /* heads */
    {"mixed_rope", "meta config {\"rope_theta\":100};put key F64 1,3,5,16;put freqs_kv F64 3,3,4;put axial_weights_kv F64 3,4,3",
     {"4 query heads are no multiple of 3 key/value heads"}},
    {"mixed_rope", "put key F64 1,3,5,16", {"key has shape [1,3,5,16], expected [B,G,q,D]", "G = 2 (config num_key_value_heads)"}},
    {"attention", "put key F64 1,3,8,16;put value F64 1,3,8,16", {"4 query heads are no multiple of 3 key/value heads"}},
    {"attention", "put key F64 1,0,8,16;put value F64 1,0,8,16", {"4 query heads are no multiple of 0 key/value heads"}},
    {"attention", "meta config {\"num_attention_heads\":14,\"num_key_value_heads\":4}", {"14", "4"}},

    {"rmsnorm", "meta config {}", {"rms_norm_eps"}},
    {"rmsnorm", "put weight F64 8", {"weight has shape [8], expected [n] with n = 7 (x)"}},
    {"rmsnorm", "poke weight 6 inf", {"weight[6] is infinity"}},
    {"linear", "put weight F64 7,4", {"weight has shape [7,4], expected [out,in] with in = 7 (x)"}},
    {"linear", "put bias F64 5", {"bias has shape [5], expected [out] with out = 4 (weight)"}},
    {"swiglu", "put gate F64 0,16777217;put up F64 0,16777217", {"gate has shape [0,16777217]", "a size without elements may be at most 16777216"}},
    {"swiglu", "put up F64 7,2", {"up has shape [7,2], expected [..] with .. = [2,7] (gate)"}},
    {"swiglu", "put up F64 14", {"up has shape [14]"}},
    {"swiglu", "drop gate", {"gate is missing", "the request holds up"}},

    {"attention", "put value F64 1,2,7,16", {"value has shape [1,2,7,16], expected [B,G,L+q,D]", "L = 3 (key)", "q = 5 (query)"}},
    {"attention", "put key F64 1,2,4,16", {"key has shape [1,2,4,16], expected [B,G,L+q,D]", "q = 5 (query)"}},
    {"attention", "meta config {\"num_attention_heads\":8}", {"query has shape [1,4,5,16]", "H = 8 (config num_attention_heads)"}},
    {"attention", "meta config {\"num_key_value_heads\":4}", {"key has shape [1,2,8,16]", "G = 4 (config num_key_value_heads)"}},
    {"attention", "put visible BOOL 1,5,7", {"visible has shape [1,5,7], expected [B,q,L+q]"}},
    {"attention", "put visible I64 1,5,8", {"visible is I64, expected BOOL"}},

    /* layers */
    {"attention_block", "meta config {\"rope_theta\":100,\"num_key_value_heads\":2,\"head_dim\":16}", {"num_attention_heads"}},
    {"attention_block", "meta config {\"rope_theta\":100,\"num_attention_heads\":4,\"num_key_value_heads\":2}", {"head_dim"}},
    {"attention_block", "meta config {\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":16}", {"rope_theta"}},
    {"decoder_layer", "meta config {\"rope_theta\":100,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":16}", {"rms_norm_eps"}},
    {"attention_block", "drop self_attn.q_proj.bias", {"self_attn.q_proj.bias is missing"}},
    {"attention_block", "put self_attn.o_proj.bias F64 48", {"self_attn.o_proj.bias", "is unexpected"}},
    {"attention_block", "put self_attn.k_proj.weight F64 64,48", {"self_attn.k_proj.weight has shape [64,48], expected [G*D,hidden] with G = 2", "D = 16"}},
    {"attention_block", "put hidden F64 1,5,64", {"hidden has shape [1,5,64]", "hidden = 48 (config hidden_size)"}},
    {"attention_block", "drop past_value", {"past_value is missing", "come together"}},
    {"attention_block", "drop past_key", {"past_key is missing", "come together"}},
    {"attention_block", "put past_value F64 1,2,2,16", {"past_value has shape [1,2,2,16]", "L = 3 (past_key)"}},
    {"attention_block", "put key_mask I64 1,9 1", {"key_mask has 9 columns, at most 8 = past 3 + new 5"}},
    {"attention_block", "drop past_key;drop past_value;put key_mask I64 1,4 1", {"key_mask has 4 columns for 5 tokens at prefill"}},
    {"attention_block", "put prefill_mask I64 1,3", {"prefill_mask I64 [1,3] is unexpected"}},
    {"attention_block", "poke past_key 3 nan", {"past_key[0,0,0,3] is NaN"}},
    {"attention_block", "poke mlp.up_proj.weight 0 nan", {"mlp.up_proj.weight[0,0] is NaN"}},
    {"attention_block", "put model.norm.weight F64 48", {"model.norm.weight F64 [48] is unexpected"}},
    {"decoder_layer", "drop mlp.up_proj.weight", {"mlp.up_proj.weight is missing"}},
    {"decoder_layer", "put mlp.down_proj.weight F64 40,48", {"mlp.down_proj.weight has shape [40,48], expected [hidden,I]"}},
    {"decoder_layer", "put position_ids I64 1,8", {"position_ids has shape [1,8], expected [B,q] or [1,q]", "q = 5 (hidden)"}},

    /* prefill */
    {"prefill", "unset session", {"metadata session is missing"}},
    {"prefill", "unset weights", {"metadata weights is missing"}},
    {"prefill", "meta weights no-such-file.safetensors", {"no-such-file.safetensors", "No such file"}},
    {"prefill", "meta logits_to_keep -1", {"logits_to_keep is -1, expected 0 or more"}},
    {"prefill", "meta logits_to_keep all", {"logits_to_keep is \"all\", expected an integer"}},
    {"prefill", "put attention_mask I64 1,4 1", {"attention_mask has shape [1,4], expected [B,L+q]", "L = 0 (a new session), q = 5 (inputs_embeds)"}},
    {"prefill", "put attention_mask I64 1,6 1", {"attention_mask has shape [1,6], expected [B,L+q]"}},
    {"prefill", "drop attention_mask", {"attention_mask is missing"}},
    {"prefill", "put inputs_embeds F64 1,5,47", {"inputs_embeds has shape [1,5,47]", "hidden = 48"}},
    {"prefill", "poke inputs_embeds 48 inf", {"inputs_embeds[0,1,0] is infinity"}},
    {"prefill", "put position_ids I64 1,5 -1", {"position_ids[0,0] is -1"}},
    {"prefill", "put input_ids I64 1,5", {"input_ids I64 [1,5] is unexpected"}},
    {"prefill", "meta config " CONFIG_WITH("\"rope_scaling\":{\"type\":\"linear\"}"), {"rope_scaling"}},
    {"prefill", "meta config {\"hidden_size\":48,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":16,\"rope_theta\":100,\"rms_norm_eps\":1e-6}",
     {"num_hidden_layers"}},
    {"prefill", "meta config {\"vocab_size\":51,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":16,\"rope_theta\":100,"
                "\"rms_norm_eps\":1e-6}",
     {"model.embed_tokens.weight has shape [50,48]", "V = 51 (config vocab_size)"}},
    {"prefill", "meta config {\"num_hidden_layers\":3,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":16,\"rope_theta\":100,\"rms_norm_eps\":1e-6}",
     {"16 tensors are missing: model.layers.2.self_attn.q_proj.weight [64,48] (in 1 of 3 layers)", "does num_hidden_layers fit"}},
    {"prefill", "meta config {\"num_hidden_layers\":1000000000000,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":16,\"rope_theta\":100,"
                "\"rms_norm_eps\":1e-6}",
     {"num_hidden_layers is 1000000000000"}},
    {"prefill", "meta config " CONFIG_WITH("\"tie_word_embeddings\":false"), {"lm_head.weight is missing"}},

    /* sessions */
    {"prefill again", "put attention_mask I64 1,5 1", {"attention_mask has shape [1,5], expected [B,L+q]", "L = 5 (the session's past), q = 5"}},
    {"prefill again", "meta tier fp32", {"session chat has tier fp64, the request says fp32"}},
    {"prefill again", "meta weights other.safetensors", {"session chat has weights ", "the request says other.safetensors"}},
    {"prefill again", "unset weights", {"metadata weights is missing"}},
    {"prefill again", "meta config {\"rope_theta\":100}", {"session chat", "rope_theta", "100", "10000"}},
    {"prefill again", "meta config {\"decode_mask\":\"spliced\"}", {"session chat", "decode_mask", "spliced", "pad_end"}},
    {"prefill again", "meta config {\"tie_word_embeddings\":false}", {"session chat", "tie_word_embeddings", "false", "true"}},
    {"prefill again",
     "put inputs_embeds F64 2,5,48;put attention_mask I64 2,10 1;drop point_coords;drop point_token_mask",
     {"inputs_embeds has shape [2,5,48], expected [B,q,hidden] with B = 1 (session chat)"}},
    {"prefill again", "put point_coords I64 3,3", {"point_coords has 3 rows, point_token_mask marks 2"}},
    {"decode", "meta session talk", {"session talk is not open; open: chat"}},
    {"decode", "unset session", {"metadata session is missing"}},
    {"decode", "meta tier bf16", {"session chat has tier fp64, the request says bf16"}},
    {"decode", "meta weights other.safetensors", {"session chat has weights ", "the request says other.safetensors"}},
    {"decode", "meta config {\"num_hidden_layers\":3}", {"session chat", "num_hidden_layers", "3", "2"}},
    {"decode", "meta config {\"drift\":\"average\"}", {"session chat", "drift", "average", "none"}},
    {"decode", "put attention_mask I64 1,7 1", {"attention_mask has 7 columns, at most 6 = past 5 + new 1"}},
    {"decode spliced", "put attention_mask I64 1,7 1", {"attention_mask has 7 columns, at most 6 = past 5 + new 1"}},
    {"decode", "put attention_mask I64 2,4 1", {"attention_mask has shape [2,4], expected [B,M] with B = 1 (session chat)"}},
    {"decode", "poke attention_mask 1 2", {"attention_mask[0,1] is 2"}},
    {"decode", "poke input_ids 0 50", {"input_ids[0,0] is 50", "0 .. 49"}},
    {"decode", "poke input_ids 0 -1", {"input_ids[0,0] is -1"}},
    {"decode", "put input_ids I64 2,1", {"input_ids has shape [2,1], expected [B,q] with B = 1 (session chat)"}},
    {"decode", "drop input_ids", {"input_ids is missing"}},
    {"decode", "put position_ids I64 1,1", {"position_ids I64 [1,1] is unexpected"}},
    {"decode", "put inputs_embeds F64 1,1,48", {"inputs_embeds", "is unexpected"}},
    {"drop_session", "meta session talk", {"session talk is not open; open: chat"}},
    {"drop_session", "meta tier fp16", {"session chat has tier fp64, the request says fp16"}},
    {"drop_session", "put x I64 1", {"x I64 [1] is unexpected"}},

    /* scan */
    {"voxelize", "put points F64 0,3", {"empty"}},
    {"voxelize", "put points F64 4,3 nan", {"4"}},
    {"voxelize", "poke points 3 256", {"256", "0 .. 255"}},
    {"voxelize", "put points F64 4,5", {"points has shape [4,5], expected [N_raw,3] or [N_raw,6]"}},
    {"voxelize", "put points F16 4,3", {"points is F16, expected I64 or F32 or F64"}},
    {"voxelize", "put points F64 2,3;poke points 0 33", {"1320", "1280"}},
    {"token_coords", "unset stages", {"metadata stages is missing"}},
    {"token_coords", "meta stages -1", {"stages is -1, expected 0 or more"}},
    {"token_coords", "poke grid 4 -1", {"-1"}},
    {"token_coords", "put grid F64 3,3", {"grid is F64, expected I64"}},
    {"token_coords", "put grid I64 3,4", {"grid has shape [3,4], expected [M,3]"}},

    /* the point encoder; what is wrong with a grid or with weights is in encoders.c */
    {"encode_points", "unset encoder", {"metadata encoder is missing", "point_backbone", "\"scenescript\" or \"sonata\""}},
    {"encode_points", "meta encoder z", {"metadata encoder is \"z\"", "\"scenescript\" or \"sonata\""}},
    {"encode_points", "unset weights", {"metadata weights is missing"}},
    {"encode_points", "meta weights nowhere.safetensors", {"weights", "nowhere.safetensors"}},
    {"encode_points", "put grid F64 3,3", {"grid is F64, expected I64"}},
    {"encode_points", "put grid I64 0,3;put features F64 0,6", {"grid has 0 rows"}},
    {"encode_points", "put features F64 2,6", {"features has shape [2,6]", "M = 3 (grid)"}},
    {"encode_points", "put features F32 3,6", {"features is F32, expected F64"}},
    {"encode_points", "poke features 4 nan", {"features[0,4] is NaN"}},
    {"encode_points", "poke grid 0 -1", {"grid[0] is (-1, 1, 2)", "0 or more"}},
    {"encode_points", "poke grid 8 16", {"grid[2] is (5, 0, 16)", "num_bins is 16"}},
    {"encode_points", "poke grid 5 1", {"grid[1] is (0, 1, 1), after (0, 1, 2)", "sorted"}},
    {"encode_points", "poke grid 5 2", {"grid[0] and grid[1] are both (0, 1, 2)"}},
    {"encode_points", "meta config {\"hidden_size\":8,\"point_config\":{\"shuffle_orders\":true}}", {"shuffle_orders is true", "the only valid value is false", "random"}},
    {"encode_points", "meta config {\"hidden_size\":8,\"point_config\":{\"order\":[\"z\",\"hilbert\"]}}", {"order is [\"z\",\"hilbert\"]", "\"z\" and \"z-trans\""}},
    {"encode_points", "meta config {\"hidden_size\":8,\"point_config\":{\"enc_channels\":[6]}}", {"enc_channels has 1 entries, expected 5"}},
    {"encode_points", "meta config {\"hidden_size\":8,\"sonata_coord_norm\":\"scene\"};meta encoder scenescript", {"sonata_coord_norm", "Sonata"}},
};
#define N_RULES (sizeof rules / sizeof *rules)

static void rule_holds(void **state) {
  const rule *the = *state;
  mr3d_server *server = server_for(the->op);
  refused(server, edit(base_of(the->op), the->edit), the->message);
  /* The unedited request is answered, and as if nothing had been refused before. */
  mr3d_server *untouched = server_for(the->op);
  mr3d_bundle *a = answer(server, base_of(the->op)), *b = answer(untouched, base_of(the->op));
  if (strcmp(the->op, "drop_session") != 0) assert_same(a, b);
  mr3d_bundle_free(&a);
  mr3d_bundle_free(&b);
  mr3d_server_free(&server);
  mr3d_server_free(&untouched);
}

/* A refused first prefill opens no session. */
static void refused_prefill_opens_nothing(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  REFUSED(server, edit(base_of("prefill"), "put point_coords I64 3,3"), "3 rows", "marks 2");
  REFUSED(server, base_of("decode"), "session chat is not open; no session is open");
  REFUSED(server, base_of("drop_session"), "session chat is not open");
  mr3d_server_free(&server);
}

/* A weights file that holds something that is not finite is refused when it is read, wherever it stands. */
static void weights_must_be_finite(void **state) {
  (void)state;
  static const char *const names[] = {"model.embed_tokens.weight", "model.norm.weight", "model.layers.1.mlp.down_proj.weight", "model.layers.0.self_attn.freqs_3d_q"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char path[64];
    mr3d_bundle *weights = decoder_weights((layer_options){.dtype = MR3D_F32});
    ((float *)mr3d_bundle_find(weights, names[i])->data)[3] = (float)atof("nan");
    save_weights(weights, path);
    mr3d_server *server = new_server();
    char edits[128];
    snprintf(edits, sizeof edits, "meta weights %s", path);
    REFUSED(server, edit(base_of("prefill"), edits), path, names[i], "NaN");
    REFUSED(server, base_of("decode"), "is not open");
    unlink(path);
    mr3d_server_free(&server);
  }
}

/* A file that is no weights file makes the request one that must be refused, like any other bad input. */
static void malformed_weights_file_is_refused(void **state) {
  (void)state;
  const char *path = "test-model-malformed.safetensors";
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  fputs("not a safetensors file at all", file);
  fclose(file);
  mr3d_server *server = new_server();
  REFUSED(server, edit(base_of("prefill"), "meta weights test-model-malformed.safetensors"), "prefill: weights", path);
  mr3d_server_free(&server);
  unlink(path);
}

static const char *const bases[] = {"splice", "mask", "mask spliced", "rope1d", "cis3d", "cis3d base", "rope3d", "normalize_coords", "mixed_rope", "rmsnorm", "linear",
                                    "swiglu", "attention", "attention_block", "decoder_layer", "prefill", "prefill again", "decode", "drop_session", "voxelize",
                                    "token_coords", "encode_points"};
#define N_BASES (sizeof bases / sizeof *bases)

/* A tensor that an operator does not know is a mistake of the sender's, never ignored. */
static void extra_tensor_is_refused_by_every_operator(void **state) {
  (void)state;
  for (size_t o = 0; o < N_BASES; o++) {
    mr3d_server *server = server_for(bases[o]);
    REFUSED(server, edit(base_of(bases[o]), "put surplus F64 1"), "surplus F64 [1] is unexpected");
    mr3d_server_free(&server);
  }
}

/* Every tensor of every request, dropped, of every type, with each size made 0, one less, one more: answered or refused, never worse. */
static void no_edit_does_worse_than_be_refused(void **state) {
  (void)state;
  int64_t n_answered = 0, n_refused = 0;
  for (size_t o = 0; o < N_BASES; o++) {
    mr3d_bundle *base = base_of(bases[o]);
    mr3d_server *server = server_for(bases[o]);
    for (int i = 0; i < mr3d_bundle_count(base); i++) {
      const mr3d_tensor *tensor = mr3d_bundle_at(base, i);
      for (int variant = -1; variant < MR3D_N_DTYPES + 3 * tensor->rank; variant++) {
        mr3d_bundle *r = copy_without(base_of(bases[o]), tensor->name, "");
        int64_t shape[MR3D_MAX_RANK];
        memcpy(shape, tensor->shape, sizeof shape);
        const int axis = (variant - MR3D_N_DTYPES) / 3, change = (variant - MR3D_N_DTYPES) % 3;
        if (variant >= MR3D_N_DTYPES) shape[axis] = change == 0 ? 0 : change == 1 ? shape[axis] - 1 : shape[axis] + 1;
        if (variant >= 0) mr3d_bundle_add(r, tensor->name, variant < MR3D_N_DTYPES ? (mr3d_dtype)variant : tensor->dtype, tensor->rank, shape);
        mr3d_bundle *a = NULL;
        mr3d_error error = {0};
        mr3d_status status = mr3d_server_answer(server, r, &a, &error);
        assert_true(status == MR3D_OK ? a != NULL : status == MR3D_INVALID && a == NULL && error.message[0]);
        ++*(status == MR3D_OK ? &n_answered : &n_refused);
        if (status == MR3D_OK && needs_session(bases[o])) { /* the session has grown */
          mr3d_server_free(&server);
          server = server_for(bases[o]);
        } else if (status == MR3D_OK && strcmp(bases[o], "prefill") == 0) {
          mr3d_server_free(&server);
          server = new_server();
        }
        mr3d_bundle_free(&a);
        mr3d_bundle_free(&r);
      }
    }
    mr3d_bundle_free(&base);
    mr3d_server_free(&server);
  }
  assert_true(n_answered > 100 && n_refused > 1000);
}

static int make_weights(void **state) {
  (void)state;
  save_decoder((layer_options){.dtype = MR3D_F64}, weights_path);
  return 0;
}
static int remove_weights(void **state) {
  (void)state;
  return unlink(weights_path);
}

int main(void) {
  struct CMUnitTest tests[N_RULES + 5];
  char names[N_RULES][200];
  for (size_t i = 0; i < N_RULES; i++) {
    snprintf(names[i], sizeof names[i], "%.40s is refused after: %.140s", rules[i].op, rules[i].edit);
    tests[i] = (struct CMUnitTest){.name = names[i], .test_func = rule_holds, .initial_state = (void *)&rules[i]};
  }
  tests[N_RULES] = (struct CMUnitTest)cmocka_unit_test(refused_prefill_opens_nothing);
  tests[N_RULES + 1] = (struct CMUnitTest)cmocka_unit_test(weights_must_be_finite);
  tests[N_RULES + 2] = (struct CMUnitTest)cmocka_unit_test(malformed_weights_file_is_refused);
  tests[N_RULES + 3] = (struct CMUnitTest)cmocka_unit_test(no_edit_does_worse_than_be_refused);
  tests[N_RULES + 4] = (struct CMUnitTest)cmocka_unit_test(extra_tensor_is_refused_by_every_operator);
  return cmocka_run_group_tests_name("requests that must be refused", tests, make_weights, remove_weights);
}
