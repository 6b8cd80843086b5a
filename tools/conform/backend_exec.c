/* exec:COMMAND: a process that speaks frames (docs/protocol.md), started again when it has died. */
#include <cjson/cJSON.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "../../ref/base/bundle.h"
#include "backend_kind.h"
#include "frames.h"
#include "mr3d/safetensors.h"
#include "parts.h"
#include "process.h"
#include "promises.h"
#include "protocol.h"

#define HELLO_TIMEOUT 120.0 /* loading a framework takes long on a busy machine */
#define EXIT_PATIENCE 5.0   /* after bye */
#define LARGEST_HEADER (4 << 20) /* a trace of all points of 100 layers has 0.5 MB */

typedef struct child {
  char **argv;
  mr3d_process *process; /* NULL after a crash, until the next ask */
  mr3d_front front;      /* of a plug-in: mr3d-host --threads N ... */
  bool tells;            /* sends a frame about its protections first */
  char *confined;        /* those that were in force at the first start, of which none may be missing later */
  unsigned long long last_id;
  char farewell[256];    /* what went wrong after bye, or "" */
} child;

static const char *const protocol_ops[] = {
#define OP(name) #name,
  MR3D_PROTOCOL_OPS(OP)
#undef OP
};
enum { N_PROTOCOL_OPS = sizeof protocol_ops / sizeof *protocol_ops };

static mr3d_channel channel_of(const mr3d_backend *backend, const mr3d_process *p) {
  return (mr3d_channel){.to = p->to, .from = p->from, .process = p->watch, .cap = backend->options.frame_cap};
}

/* ---- hello ---- */

static const char *op_at(int i) { return protocol_ops[i]; }
static const char *tier_at(int i) { return mr3d_tier_name((mr3d_tier)i); }

/* Reads a JSON array of names, each one of `valid`, into their indices. */
static mr3d_status read_names(const mr3d_bundle *hello, const char *key, int n_valid, const char *(*valid)(int), int found[], int *n_found,
                              mr3d_error *error) {
  const char *text = mr3d_bundle_get(hello, key);
  if (!text) return mr3d_fail(error, MR3D_FORMAT, "its hello has no metadata \"%s\": a JSON array of names", key);
  cJSON *list = cJSON_ParseWithOpts(text, NULL, true), *item;
  *n_found = 0;
  mr3d_status status = MR3D_OK;
  if (!cJSON_IsArray(list))
    status = mr3d_fail(error, MR3D_FORMAT, "its hello's \"%s\" is no JSON array of names: %.200s", key, text);
  else if (!list->child)
    status = mr3d_fail(error, MR3D_FORMAT, "its hello's \"%s\" is empty: a backend offers at least one", key);
  cJSON_ArrayForEach(item, list) {
    if (status != MR3D_OK) break;
    int i = 0;
    while (i < n_valid && !(cJSON_IsString(item) && strcmp(item->valuestring, valid(i)) == 0)) i++;
    if (i == n_valid) {
      char names[512] = "";
      for (int v = 0; v < n_valid; v++) {
        strcat(names, v ? " " : "");
        strcat(names, valid(v));
      }
      char *shown = cJSON_PrintUnformatted(item);
      status = mr3d_fail(error, MR3D_FORMAT, "its hello's \"%s\" holds %.100s; the protocol knows: %s", key, shown, names);
      free(shown);
      break;
    }
    for (int k = 0; k < *n_found; k++)
      if (found[k] == i) status = mr3d_fail(error, MR3D_FORMAT, "its hello's \"%s\" holds \"%s\" twice", key, valid(i));
    if (status == MR3D_OK) found[(*n_found)++] = i;
  }
  cJSON_Delete(list);
  return status;
}

static mr3d_status check_protocol(const mr3d_bundle *frame, const char *what, mr3d_error *error) {
  const char *protocol = mr3d_bundle_get(frame, "protocol");
  if (!protocol) return mr3d_fail(error, MR3D_FORMAT, "its %s has no metadata \"protocol\" (expected \"%s\")", what, MR3D_PROTOCOL);
  if (strcmp(protocol, MR3D_PROTOCOL) != 0)
    return mr3d_fail(error, MR3D_FORMAT, "its %s speaks protocol \"%.40s\", this suite speaks \"%s\"", what, protocol, MR3D_PROTOCOL);
  return MR3D_OK;
}

/* Its promises: metadata such as scores = fp32; "tier", like none at all, promises nothing. */
static mr3d_status read_promises(const mr3d_bundle *hello, uint32_t *kept, mr3d_error *error) {
  const mr3d_promise *promise;
  for (int i = 0; (promise = mr3d_promise_at(i)); i++) {
    const char *value = mr3d_bundle_get(hello, promise->name);
    if (!value || strcmp(value, "tier") == 0) continue;
    if (strcmp(value, "fp32") != 0)
      return mr3d_fail(error, MR3D_FORMAT, "its hello's \"%s\" is \"%.40s\"; expected \"fp32\" (a promise) or \"tier\" (none)", promise->name, value);
    *kept |= 1u << promise->point;
  }
  return MR3D_OK;
}

/* Checks a hello; the first one also introduces the backend. */
static mr3d_status read_hello(mr3d_backend *backend, const mr3d_bundle *hello, mr3d_error *error) {
  mr3d_status status = check_protocol(hello, "hello", error);
  if (status != MR3D_OK) return status;
  const char *type = mr3d_bundle_get(hello, "type"), *name = mr3d_bundle_get(hello, "name"), *version = mr3d_bundle_get(hello, "version");
  if (!type || strcmp(type, "hello") != 0)
    return mr3d_fail(error, MR3D_FORMAT, "it answered hello with a frame of type \"%.40s\"", type ? type : "(none)");
  if (!name || !*name || !version)
    return mr3d_fail(error, MR3D_FORMAT, "its hello has no metadata \"%s\"", name && *name ? "version" : "name");
  int ops[N_PROTOCOL_OPS], tiers[MR3D_N_TIERS], n_ops, n_tiers;
  status = read_names(hello, "ops", N_PROTOCOL_OPS, op_at, ops, &n_ops, error);
  if (status == MR3D_OK) status = read_names(hello, "tiers", MR3D_N_TIERS, tier_at, tiers, &n_tiers, error);
  uint32_t kept = 0;
  if (status == MR3D_OK) status = read_promises(hello, &kept, error);
  if (status != MR3D_OK || backend->info.name) return status;
  const char *names[N_PROTOCOL_OPS];
  mr3d_tier kinds[MR3D_N_TIERS];
  for (int i = 0; i < n_ops; i++) names[i] = protocol_ops[ops[i]];
  for (int i = 0; i < n_tiers; i++) kinds[i] = (mr3d_tier)tiers[i];
  mr3d_backend_introduce(backend, name, version, n_ops, names, n_tiers, kinds);
  backend->info.kept = kept;
  const char *traces = mr3d_bundle_get(hello, "traces");
  backend->info.traces = traces && strcmp(traces, "1") == 0;
  return MR3D_OK;
}

/* A bundle of the frame's type alone, as bytes. */
static void simple_frame(const char *type, void **bytes, size_t *size) {
  mr3d_bundle *frame = mr3d_bundle_new();
  mr3d_bundle_set(frame, "protocol", MR3D_PROTOCOL);
  mr3d_bundle_set(frame, "type", type);
  mr3d_error error = {0};
  if (mr3d_safetensors_serialize(frame, bytes, size, &error) != MR3D_OK) abort(); /* two short strings always fit */
  mr3d_bundle_free(&frame);
}

/* Appends the last line that is not blank of a log: where a process that died mostly says why. */
static void quote_last_words(const char *log, char *message, size_t size) {
  const char *end = log + strlen(log);
  while (end > log && (unsigned char)end[-1] <= ' ') end--;
  const char *line = end;
  while (line > log && line[-1] != '\n') line--;
  size_t n = strlen(message);
  if (end > line) snprintf(message + n, size - n, "; it wrote last: \"%.*s\"", end - line > 300 ? 300 : (int)(end - line), line);
}

/* The host's first frame. It was sent before anything of the backend's ran, so that it had no part in it. */
static mr3d_status read_protections(mr3d_backend *backend, const mr3d_bundle *frame, mr3d_error *error) {
  const char *type = mr3d_bundle_get(frame, "type"), *active = mr3d_bundle_get(frame, "active"), *missing = mr3d_bundle_get(frame, "missing");
  if (!type || strcmp(type, "isolation") != 0 || !active || !missing)
    return mr3d_fail(error, MR3D_FORMAT, "its first frame does not tell how it is isolated: it is no mr3d-host of this version");
  child *c = backend->state;
  if (!c->confined) c->confined = strdup(active);
  if (strcmp(c->confined, active) != 0)
    return mr3d_fail(error, MR3D_IO, "it could not be confined as at its first start; missing now: %.600s", missing);
  char own[512], lacks[512], text[4096], lacking[4096];
  mr3d_process_protections(true, strstr(active, "user namespace") != NULL, own, lacks);
  snprintf(text, sizeof text, "%s; %s%s", own, c->front == MR3D_FRONT_CONFINED ? MR3D_PROCESS_LIMITS "; " : "", active);
  snprintf(lacking, sizeof lacking, "%s%s%s", lacks, *lacks && *missing ? "; " : "", missing);
  mr3d_backend_protect(backend, text, lacking);
  return MR3D_OK;
}

/* A frame as a bundle, which takes its memory over, or NULL: it is no safetensors file, or one that takes long to read and says nothing. */
static mr3d_bundle *adopt(const mr3d_frame *frame, mr3d_error *error) {
  mr3d_bundle *bundle = NULL;
  uint64_t header = 0;
  if (frame->size >= sizeof header) memcpy(&header, frame->bytes, sizeof header); /* little-endian; on another machine it is only larger */
  if (header > LARGEST_HEADER && header < frame->size)
    mr3d_fail(error, MR3D_FORMAT, "its header of %llu bytes is larger than any answer needs (%d)", (unsigned long long)header, LARGEST_HEADER);
  else if (mr3d_safetensors_parse(frame->bytes, frame->size, &bundle, error) == MR3D_OK) mr3d_bundle_keep(bundle, frame->bytes, frame->size, mr3d_frame_free);
  if (!bundle) mr3d_frame_free(frame->bytes, frame->size);
  return bundle;
}

/* Sends a frame (bytes NULL: none) and reads one with `read`. */
static mr3d_status greet(mr3d_backend *backend, const void *bytes, size_t size, double patience,
                         mr3d_status (*read)(mr3d_backend *, const mr3d_bundle *, mr3d_error *), mr3d_error *error) {
  child *c = backend->state;
  mr3d_channel channel = channel_of(backend, c->process);
  mr3d_frame frame;
  mr3d_error said = {0};
  mr3d_frame_end end = mr3d_frame_exchange(&channel, bytes, size, &frame, mr3d_now() + patience, &said);
  if (end == MR3D_FRAME_DONE) {
    mr3d_bundle *hello = adopt(&frame, &said);
    mr3d_status status = hello ? read(backend, hello, error) : mr3d_fail(error, MR3D_FORMAT, "its hello is no safetensors file: %.700s", said.message);
    mr3d_bundle_free(&hello);
    return status;
  }
  char message[900], how[128], *log = NULL;
  if (end == MR3D_FRAME_CLOSED && mr3d_process_ended(c->process, 1, how))
    snprintf(message, sizeof message, "%s before it answered the suite's hello", how);
  else if (end == MR3D_FRAME_TIMEOUT) snprintf(message, sizeof message, "no hello within %g s; it %.400s", patience, said.message);
  else snprintf(message, sizeof message, "in place of a hello, it %.400s", said.message);
  log = mr3d_process_log(c->process);
  quote_last_words(log, message, sizeof message);
  free(log);
  return mr3d_fail(error, MR3D_FORMAT, "%s", message);
}

static mr3d_status start(mr3d_backend *backend, mr3d_error *error) {
  child *c = backend->state;
  if (c->front == MR3D_FRONT_PLUGIN) {
    char threads[16];
    snprintf(threads, sizeof threads, "%d", backend->options.threads);
    free(c->argv[2]);
    c->argv[2] = strdup(threads);
  }
  mr3d_status status = mr3d_process_start(c->argv, backend->options.threads, !backend->options.no_isolation, &c->process, error);
  if (status != MR3D_OK) return status;
  double patience = backend->options.hello_timeout > 0 ? backend->options.hello_timeout : HELLO_TIMEOUT;
  if (c->tells) status = greet(backend, NULL, 0, patience, read_protections, error);
  if (status == MR3D_OK) {
    void *bytes;
    size_t size;
    simple_frame("hello", &bytes, &size);
    status = greet(backend, bytes, size, patience, read_hello, error);
    free(bytes);
  }
  if (status != MR3D_OK) {
    mr3d_process_end(&c->process, 0);
    return mr3d_fail_in(error, "backend %.300s", backend->info.spec);
  }
  return MR3D_OK;
}

/* ---- ask ---- */

/* The request with the layer's own metadata, as a frame's parts; its tensors are only borrowed. */
static mr3d_status envelope(const mr3d_bundle *request, const char *id, struct iovec **parts, int *n_parts, size_t *size, mr3d_error *error) {
  mr3d_bundle *frame = mr3d_bundle_new();
  mr3d_bundle_set(frame, "protocol", MR3D_PROTOCOL);
  mr3d_bundle_set(frame, "type", "request");
  mr3d_bundle_set(frame, "id", id);
  for (int i = 0; i < mr3d_bundle_meta_count(request); i++) {
    const char *key, *value;
    mr3d_bundle_meta_at(request, i, &key, &value);
    if (strcmp(key, "protocol") != 0 && strcmp(key, "type") != 0 && strcmp(key, "id") != 0) mr3d_bundle_set(frame, key, value);
  }
  for (int i = 0; i < mr3d_bundle_count(request); i++) {
    const mr3d_tensor *t = mr3d_bundle_at(request, i);
    mr3d_bundle_borrow(frame, t->name, t->dtype, t->rank, t->shape, t->data);
  }
  mr3d_status status = mr3d_safetensors_parts(frame, parts, n_parts, size, error);
  mr3d_bundle_free(&frame);
  return status;
}

/* What an answering frame says, or why it breaks the protocol (MR3D_REPLY_MALFORMED). Takes the answer over when it is one. */
static void read_reply(mr3d_bundle **frame, const char *id, mr3d_reply *reply) {
  mr3d_error error = {0};
  const char *type = mr3d_bundle_get(*frame, "type"), *got_id = mr3d_bundle_get(*frame, "id"),
             *message = mr3d_bundle_get(*frame, "message");
  reply->kind = MR3D_REPLY_MALFORMED;
  if (check_protocol(*frame, "answer", &error) != MR3D_OK) {
    memcpy(reply->message, error.message, sizeof reply->message);
    return;
  }
  mr3d_reply_kind kind = !type                               ? MR3D_REPLY_MALFORMED
                         : strcmp(type, "answer") == 0       ? MR3D_REPLY_ANSWER
                         : strcmp(type, "error") == 0        ? MR3D_REPLY_ERROR
                         : strcmp(type, "unsupported") == 0  ? MR3D_REPLY_UNSUPPORTED
                                                             : MR3D_REPLY_MALFORMED;
  if (kind == MR3D_REPLY_MALFORMED)
    snprintf(reply->message, sizeof reply->message, "a frame of type \"%.40s\" came where answer, error or unsupported was expected",
             type ? type : "(none)");
  else if (!got_id || strcmp(got_id, id) != 0)
    snprintf(reply->message, sizeof reply->message, "its %.20s is for request \"%.40s\", but \"%s\" was asked", type,
             got_id ? got_id : "(no id)", id);
  else if (kind != MR3D_REPLY_ANSWER && !message)
    snprintf(reply->message, sizeof reply->message, "its %.20s has no metadata \"message\"", type);
  else
    reply->kind = kind;
  if (reply->kind == MR3D_REPLY_ANSWER) reply->answer = *frame, *frame = NULL;
  else if (reply->kind != MR3D_REPLY_MALFORMED) snprintf(reply->message, sizeof reply->message, "%s", message);
}

/* Bytes that nobody asked for; 0: none. */
static int stray_bytes(const mr3d_process *p) {
  int stray = 0;
  struct pollfd wait = {.fd = p->from, .events = POLLIN};
  return poll(&wait, 1, 0) > 0 && (wait.revents & POLLIN) && ioctl(p->from, FIONREAD, &stray) == 0 ? stray : 0;
}

/* Before a request is sent: a process that ended, or spoke unasked, since the last answer has broken its promise already. */
static bool idle_mistake(const mr3d_process *p, mr3d_reply *reply) {
  char how[128];
  int stray = stray_bytes(p);
  if (stray > 0) {
    reply->kind = MR3D_REPLY_MALFORMED;
    reply->before = true;
    snprintf(reply->message, sizeof reply->message, "it sent %d bytes after its last answer that nobody asked for", stray);
    return true;
  }
  if (mr3d_process_ended(p, 0, how)) {
    reply->kind = MR3D_REPLY_CRASH;
    reply->before = true;
    snprintf(reply->message, sizeof reply->message, "%s after its last answer, before this request was sent", how);
    return true;
  }
  return false;
}

static bool went_astray(mr3d_backend *backend, char message[256]) {
  child *c = backend->state;
  char how[128];
  if (!c->process) return false;
  int stray = stray_bytes(c->process);
  if (stray > 0) snprintf(message, 256, "it sent %d bytes after its answer that nobody asked for", stray);
  else if (mr3d_process_ended(c->process, 0, how)) snprintf(message, 256, "%s after its answer", how);
  else return false;
  mr3d_process_end(&c->process, 0);
  return true;
}

static void exchange(mr3d_backend *backend, const struct iovec *parts, int n_parts, const char *id, double timeout, mr3d_reply *reply) {
  mr3d_process *p = ((child *)backend->state)->process;
  if (idle_mistake(p, reply)) return;
  mr3d_channel channel = channel_of(backend, p);
  mr3d_frame frame;
  mr3d_error said = {0};
  mr3d_frame_end end = mr3d_frame_exchange_parts(&channel, parts, n_parts, &frame, timeout > 0 ? mr3d_now() + timeout : 0, &said);
  if (end == MR3D_FRAME_DONE) {
    mr3d_bundle *answer = adopt(&frame, &said);
    if (!answer) {
      reply->kind = MR3D_REPLY_MALFORMED;
      snprintf(reply->message, sizeof reply->message, "its answer is no safetensors file: %.900s", said.message);
      return;
    }
    read_reply(&answer, id, reply);
    mr3d_bundle_free(&answer);
    return;
  }
  char how[128];
  int unread = 0;
  if (end == MR3D_FRAME_CLOSED) {
    reply->before = frame.received == 0 && ioctl(p->to, FIONREAD, &unread) == 0 && (uint64_t)unread == frame.sent;
    /* Give a process whose output just closed the moment it needs to become a corpse. */
    bool ended = mr3d_process_ended(p, 1, how);
    reply->kind = ended ? MR3D_REPLY_CRASH : MR3D_REPLY_MALFORMED;
    if (!ended) snprintf(reply->message, sizeof reply->message, "it %.900s, and goes on running", said.message);
    else if (reply->before) snprintf(reply->message, sizeof reply->message, "%s after its last answer, before it read this request", how);
    else if (frame.received == 0) snprintf(reply->message, sizeof reply->message, "%s before it answered", how);
    else
      snprintf(reply->message, sizeof reply->message, "%s in the middle of its answer, after %llu bytes", how,
               (unsigned long long)frame.received);
  } else if (end == MR3D_FRAME_TIMEOUT) {
    bool ended = mr3d_process_ended(p, 0, how);
    reply->kind = ended ? MR3D_REPLY_CRASH : MR3D_REPLY_TIMEOUT;
    if (ended)
      snprintf(reply->message, sizeof reply->message, "%s before it answered; a process that it left behind holds its output open", how);
    else snprintf(reply->message, sizeof reply->message, "no answer within %g s; it %.900s", timeout, said.message);
  } else {
    reply->kind = MR3D_REPLY_MALFORMED;
    snprintf(reply->message, sizeof reply->message, "it %.1000s", said.message);
  }
}

static void ask(mr3d_backend *backend, const mr3d_bundle *request, double timeout, mr3d_reply *reply) {
  child *c = backend->state;
  mr3d_error error = {0};
  if (!c->process && start(backend, &error) != MR3D_OK) {
    reply->kind = MR3D_REPLY_CRASH;
    snprintf(reply->message, sizeof reply->message, "it could not be started again: %.990s", error.message);
    return;
  }
  char id[32];
  snprintf(id, sizeof id, "%llu", ++c->last_id);
  struct iovec *parts;
  int n_parts;
  size_t size;
  if (envelope(request, id, &parts, &n_parts, &size, &error) != MR3D_OK) {
    reply->kind = MR3D_REPLY_MALFORMED;
    snprintf(reply->message, sizeof reply->message, "the request could not be written as a frame: %.960s", error.message);
    return;
  }
  if (size > backend->options.frame_cap) {
    reply->kind = MR3D_REPLY_UNSUPPORTED;
    snprintf(reply->message, sizeof reply->message, "the request's frame would have %zu bytes, the cap is %llu", size,
             (unsigned long long)backend->options.frame_cap);
  } else {
    exchange(backend, parts, n_parts, id, timeout, reply);
  }
  mr3d_safetensors_parts_free(&parts);

  reply->log = mr3d_process_log(c->process);
  if (reply->kind == MR3D_REPLY_CRASH || reply->kind == MR3D_REPLY_TIMEOUT || reply->kind == MR3D_REPLY_MALFORMED) {
    quote_last_words(reply->log, reply->message, sizeof reply->message);
    mr3d_process_end(&c->process, 0);
  }
}

static void rest(mr3d_backend *backend) {
  child *c = backend->state;
  if (!c->process) return;
  void *bytes;
  size_t size;
  simple_frame("bye", &bytes, &size);
  mr3d_channel channel = channel_of(backend, c->process);
  mr3d_error ignored = {0};
  mr3d_frame_exchange(&channel, bytes, size, NULL, mr3d_now() + EXIT_PATIENCE, &ignored);
  free(bytes);
  char how[128];
  if (!mr3d_process_ended(c->process, EXIT_PATIENCE, how))
    snprintf(c->farewell, sizeof c->farewell, "after bye the backend's process went on for %g s, until it was killed; expected is an end with exit status 0", EXIT_PATIENCE);
  else if (strcmp(how, "exited with status 0") != 0)
    snprintf(c->farewell, sizeof c->farewell, "after bye the backend's process %s%s; expected is an end with exit status 0", strncmp(how, "killed", 6) == 0 ? "was " : "", how);
  mr3d_process_end(&c->process, 0);
}

static char *remarks(mr3d_backend *backend) {
  const child *c = backend->state;
  return c->farewell[0] ? strdup(c->farewell) : NULL;
}

static void close_exec(mr3d_backend *backend) {
  child *c = backend->state;
  rest(backend);
  mr3d_words_free(&c->argv);
  free(c->confined);
  free(c);
}

mr3d_status mr3d_backend_open_exec(mr3d_backend *backend, char *const argv[], mr3d_front front, mr3d_error *error) {
  int n = 0;
  while (argv[n]) n++;
  child *c = mr3d_allocate(1, sizeof *c);
  c->argv = mr3d_allocate(n + 1, sizeof *c->argv);
  for (int i = 0; i < n; i++) c->argv[i] = strdup(argv[i]);
  c->front = front;
  c->tells = front != MR3D_FRONT_COMMAND && !backend->options.no_isolation;
  backend->state = c, backend->ask = ask, backend->went_astray = went_astray, backend->rest = rest, backend->remarks = remarks, backend->close = close_exec;
  char active[512], missing[512], text[1024];
  mr3d_process_protections(!backend->options.no_isolation, false, active, missing);
  snprintf(text, sizeof text, "%s%s", active, backend->options.no_isolation ? "" : "; " MR3D_PROCESS_LIMITS);
  if (front == MR3D_FRONT_COMMAND && !backend->options.no_isolation)
    snprintf(missing + strlen(missing), sizeof missing - strlen(missing), "%sprocess namespace: mr3d-host %s", *missing ? "; " : "", mr3d_backend_no_host());
  mr3d_backend_protect(backend, text, missing);
  mr3d_status status = start(backend, error);
  if (status != MR3D_OK) close_exec(backend);
  return status;
}
