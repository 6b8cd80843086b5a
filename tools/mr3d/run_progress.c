/** How far mr3d run is, in one line on a terminal that is written over and over: step, layer, rate, time left. */
#include "run_parts.h"

#include <string.h>

#include "frames.h"

#define SECONDS_BETWEEN_LINES 0.1

/* Floating-point operations of a layer's products and attention on q new tokens and K keys; the rest is small beside them. */
static double layer_operations(const mr3d_run *r, const mr3d_call_state *call) {
  const mr3d_tensor *gate = mr3d_bundle_find(mr3d_weights_tensors(r->model), "model.layers.0.mlp.gate_proj.weight");
  const double hidden = (double)call->hidden_size, of_query = (double)(r->config.num_attention_heads * call->head_dim), of_key = (double)(call->kv_heads * call->head_dim);
  const double weights = 2 * hidden * (of_query + of_key) + 3 * hidden * (double)(gate ? gate->shape[0] : 0);
  return (double)call->q * (2 * weights + 4 * of_query * (double)(call->L + call->q));
}

void mr3d_run_progress_begin(mr3d_run_progress *p, const char *label, int64_t tokens_left) {
  snprintf(p->label, sizeof p->label, "%s", label);
  p->tokens_left = tokens_left;
  p->new_layers = 0;
  p->started = mr3d_now();
}

/* Whether it is time for a line. */
static bool is_due(const mr3d_run_progress *p, double at) { return p->on && !(p->shown > 0 && at - p->shown < SECONDS_BETWEEN_LINES); }

void mr3d_run_progress_part(mr3d_run_progress *p, int64_t done, int64_t parts) {
  const double at = mr3d_now();
  if (!is_due(p, at)) return;
  fprintf(stderr, "\r%s: part %" PRId64 " of %" PRId64 ", %.0f s so far\033[K", p->label, done, parts, at - p->started);
  fflush(stderr);
  p->shown = at;
}

void mr3d_run_progress_layer(mr3d_run_progress *p, const mr3d_call_state *call) {
  p->new_layers++;
  const double at = mr3d_now(), took = at - p->started;
  if (!is_due(p, at)) return;
  const double rate = (double)p->new_layers / took; /* layers a second */
  const double left = ((double)call->layers * (double)p->tokens_left / (double)call->q - (double)call->done) / rate;
  char speed[48];
  if (call->q > 1) snprintf(speed, sizeof speed, "%.1f GFLOP/s", 1e-9 * rate * layer_operations(p->run, call));
  else snprintf(speed, sizeof speed, "%.2f tokens/s", rate / (double)call->layers);
  fprintf(stderr, "\r%s: layer %" PRId64 " of %" PRId64 ", %s, %.0f s left\033[K", p->label, call->done, call->layers, speed, left);
  fflush(stderr);
  p->shown = at;
}

void mr3d_run_progress_end(mr3d_run_progress *p) {
  if (p->shown > 0) fputs("\r\033[K", stderr);
  p->shown = 0;
}
