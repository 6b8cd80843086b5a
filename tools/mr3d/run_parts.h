/** What the parts of `mr3d run` share: run.c reads options, scan and prompt; run_encode.c finds the points' features; run_generate.c asks the model;
 * run_trace.c chooses what --trace writes. */
#ifndef MR3D_RUN_PARTS_H
#define MR3D_RUN_PARTS_H

#include <inttypes.h>
#include <stdio.h>

#include <cjson/cJSON.h>

#include "../../ref/model/weights.h"
#include "command.h"
#include "mr3d/safetensors.h"

typedef struct mr3d_run {
  const char *scan, *prompt, *weights, *config_path, *features_path, *data, *trace_path, *points, *forced_by, *checkpoint;
  double checkpoint_every; /* seconds */
  uint64_t seed;
  mr3d_order init_missing;
  int64_t steps, chunk; /* chunk 0: the prompt in one request */
  bool json;

  mr3d_config config;
  char *config_text;
  mr3d_context context;
  cJSON *said;        /* everything found, for --json */
  mr3d_safetensors_writer *trace; /* NULL: no trace */

  mr3d_voxelize_out cells;
  mr3d_token_coords_out tokens;
  int64_t T, *ids;    /* the prompt */
  int64_t n_forced, *forced; /* --teacher-forced; NULL: decode steps are fed with the greedy tokens */
  mr3d_splice_out splice;

  mr3d_weights_cache *cache; /* shared with the server */
  mr3d_weights *model;
  mr3d_decoder_ends ends;
} mr3d_run;

/* What is said: a line for people (MR3D_SAY), a member for --json. */
#define MR3D_SAY(r, ...) ((r)->json ? (void)0 : (void)printf(__VA_ARGS__))
static inline void mr3d_run_say_number(mr3d_run *r, const char *key, double value) { cJSON_AddNumberToObject(r->said, key, value); }

/** Configuration, scan and, where there is one, the prompt, spliced: all that comes before the model. */
mr3d_status mr3d_run_read_inputs(mr3d_run *, mr3d_error *);
/** Frees what a run has read and said, not the run itself. */
void mr3d_run_clear(mr3d_run *);
/** Opens --weights as the server will, and finds the embedding. Requires: the inputs are read. */
mr3d_status mr3d_run_open_weights(mr3d_run *, mr3d_error *);
/** embeds [S,hidden] of the spliced prompt: rows of the embedding for text, features [N,hidden] for points. Requires: the weights are open. */
mr3d_status mr3d_run_embed(mr3d_run *, const double *features, double *embeds, mr3d_error *);

/** Prefill and greedy decode of the spliced prompt. Errors: of weights, features and the reference. */
mr3d_status mr3d_run_generate(mr3d_run *, mr3d_error *);

/** Whether the run has a point encoder: the configuration names one, and nothing takes its place. */
bool mr3d_run_encodes(const mr3d_run *);
/**
 * features [N,hidden] of the point tokens: of --features, of the encoder, or drawn by --seed where there is none; which is said. Requires: the weights are
 * open. Errors: of the encoder; its tokens are not those of the configuration's downsamplings.
 */
typedef struct mr3d_run_progress mr3d_run_progress;
mr3d_status mr3d_run_features(mr3d_run *, mr3d_server *, mr3d_run_progress *, int64_t hidden, double *features, mr3d_error *);

/** Prefill requests, and all that the model is sent: the steps of the trace. Require: the prompt is spliced. */
int64_t mr3d_run_prefills(const mr3d_run *);
int64_t mr3d_run_requests(const mr3d_run *);

/** One request's new tokens and keys. */
typedef struct mr3d_run_sizes {
  int64_t q, K;
} mr3d_run_sizes;
mr3d_run_sizes mr3d_run_request_sizes(const mr3d_run *, int64_t index);

/** Writes a tensor of `mr3d run` itself into the trace as STEP.model.POINT, if it is asked for; NULL is fine. */
void mr3d_run_trace(mr3d_run *, const char *point, int64_t step, const mr3d_tensor *);
/** Whether --points (without it: a trace) asks for a point of the decoder, "17.query_rotated", or of the encoder, in a step; and writes it as STEP.LAYER.POINT. */
bool mr3d_run_trace_wants(const mr3d_run *, int64_t step, const char *name);
void mr3d_run_trace_take(mr3d_run *, int64_t step, const mr3d_tensor *);
/** What the values come from: configuration, weights and their digests, how the prompt was made. Requires: the weights are open, where there are some. */
mr3d_status mr3d_run_trace_inputs(mr3d_run *, mr3d_error *);
/** Whether each glob of --points can match a point of this run; the message lists what there is. Requires: the prompt is spliced. */
mr3d_status mr3d_run_trace_check(const mr3d_run *, mr3d_error *);
/** Says how much the encoder's and the decoder's points of the trace will take, and whether the disk has room for them. Requires: the weights are open. Errors: says what is needed. */
mr3d_status mr3d_run_trace_fits(mr3d_run *, mr3d_error *);

/** The line on a terminal that says how far the model is. Zero-initialise; `on` where there is a terminal. */
struct mr3d_run_progress {
  bool on;
  const mr3d_run *run;
  char label[48];        /* "prefill", "decode 3 of 8" */
  int64_t tokens_left;   /* of the phase, the request's own included */
  int64_t new_layers;    /* layers that this request has computed, not found in a checkpoint */
  double started, shown; /* seconds; shown 0: no line is on the terminal */
};
/** A request begins: `tokens_left` counts its new tokens and those of later requests of its phase. */
void mr3d_run_progress_begin(mr3d_run_progress *, const char *label, int64_t tokens_left);
/** After a layer: rewrites the line, ten times a second at most. */
void mr3d_run_progress_layer(mr3d_run_progress *, const mr3d_call_state *);
/** After a part of the encoder. */
void mr3d_run_progress_part(mr3d_run_progress *, int64_t done, int64_t parts);
/** Takes the line away. */
void mr3d_run_progress_end(mr3d_run_progress *);

/** --checkpoint; without it all does nothing. */
typedef struct mr3d_run_resume {
  const char *path;
  double every, saved; /* seconds: between files, of the last one */
  const mr3d_run *run;
  mr3d_bundle *inputs; /* metadata: what the values depend on */
  mr3d_bundle *found;  /* the stopped run's file, or NULL */
  int64_t found_step, found_layer;
  int64_t step;        /* the request that is being answered: the caller sets it */
  int64_t *tokens;     /* the run's */
  bool failed;
} mr3d_run_resume;
/**
 * Reads the file of a stopped run, with the tokens it had, or begins one. Requires: the prompt is spliced, the weights are open, embeds
 * [S,hidden] are filled. Errors: the file cannot be read or written, or is of a run that differs, with what does.
 */
mr3d_status mr3d_run_resume_open(mr3d_run_resume *, const mr3d_run *, const double *embeds, int64_t *tokens, mr3d_error *);
/** Whether a request's outcome is in the file, so that its answer is worth nothing. */
bool mr3d_run_resume_knows(const mr3d_run_resume *, int64_t step);
/** The callbacks of mr3d_watch. Writing fails with a warning: the run goes on. */
int64_t mr3d_run_resume_start(const mr3d_run_resume *, const mr3d_call_state *);
void mr3d_run_resume_layer_done(mr3d_run_resume *, const mr3d_call_state *);
/** Frees, and removes the file where the run is finished. */
void mr3d_run_resume_close(mr3d_run_resume *, bool finished);

#endif
