/*
 * mr3d-host: loads a plug-in (mr3d/backend.h) and lets it answer frames on stdin and stdout (docs/protocol.md); or becomes a command, confined.
 *
 * Exit status: 0 after bye; 1 the plug-in could not be loaded or started, or the command not; 2 the other side broke the protocol;
 * 3 the plug-in wrote where it must not.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../../ref/io/parts.h"
#include "../frames.h"
#include "../promises.h"
#include "../protocol.h"
#include "exchange.h"
#include "isolation.h"
#include "mr3d/format.h"
#include "mr3d/safetensors.h"
#include "pages.h"

static const struct {
  const char *name;
  size_t place; /* of its function in the table */
} ops[] = {
#define OP(op) {#op, offsetof(mr3d_backend_plugin, op)},
  MR3D_PROTOCOL_OPS(OP)
#undef OP
};
enum { N_OPS = sizeof ops / sizeof *ops };

static mr3d_backend_plugin plugin; /* as much of it as was known when it was compiled; the rest is NULL */

static _Noreturn void die(int status, const char *format, ...) MR3D_PRINTF(2, 3);
static _Noreturn void die(int status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("mr3d-host: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(status);
}

/* ---- the plug-in ---- */

static void load(const char *path) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) die(1, "could not load the plug-in: %s", dlerror());
  void *symbol = dlsym(library, "mr3d_backend_entry");
  if (!symbol) die(1, "%s exports no mr3d_backend_entry: it is no plug-in of mr3d/backend.h", path);
  const mr3d_backend_plugin *(*entry)(uint32_t);
  memcpy(&entry, &symbol, sizeof entry);
  const mr3d_backend_plugin *table = entry(MR3D_BACKEND_ABI_VERSION);
  if (!table) die(1, "the plug-in does not work with version %d of mr3d/backend.h", MR3D_BACKEND_ABI_VERSION);
  if (table->abi_version != MR3D_BACKEND_ABI_VERSION)
    die(1, "the plug-in was compiled for version %u of mr3d/backend.h, this host has version %d", table->abi_version,
        MR3D_BACKEND_ABI_VERSION);
  if (table->struct_size < offsetof(mr3d_backend_plugin, splice))
    die(1, "the plug-in's table says it has %u bytes, at least %zu are needed: set struct_size = sizeof(mr3d_backend_plugin)",
        table->struct_size, offsetof(mr3d_backend_plugin, splice));
  memcpy(&plugin, table, table->struct_size < sizeof plugin ? table->struct_size : sizeof plugin);
  if (!plugin.name || !*plugin.name || !plugin.version || !plugin.supports)
    die(1, "the plug-in's table lacks %s", !plugin.name || !*plugin.name ? "a name" : !plugin.version ? "a version" : "supports()");
}

static mr3d_backend_op function_of(int op) {
  mr3d_backend_op function;
  memcpy(&function, (const char *)&plugin + ops[op].place, sizeof function);
  return function;
}

static bool offers(int op, mr3d_tier tier) { return function_of(op) && plugin.supports(ops[op].name, mr3d_tier_name(tier)); }

/* ---- frames ---- */

static void send(int out, mr3d_bundle *frame, const char *id) {
  mr3d_bundle_set(frame, "protocol", MR3D_PROTOCOL);
  if (id) mr3d_bundle_set(frame, "id", id);
  struct iovec *parts;
  int count;
  size_t size;
  mr3d_error error = {0};
  if (mr3d_safetensors_parts(frame, &parts, &count, &size, &error) != MR3D_OK)
    die(MR3D_HOST_BROKE_RULES, "the plug-in's answer could not be written: %s", error.message);
  mr3d_channel channel = {.to = out, .from = -1, .process = -1, .lends = true};
  if (mr3d_frame_exchange_parts(&channel, parts, count, NULL, 0, &error) != MR3D_FRAME_DONE) die(2, "the suite %s", error.message);
  mr3d_safetensors_parts_free(&parts);
  mr3d_bundle_free(&frame);
}

/* ["splice","mask"]: those for which `offered` says so. */
static void set_names(mr3d_bundle *hello, const char *key, int n, const char *(*name)(int), bool (*offered)(int)) {
  char text[1024] = "[", *end = text + 1;
  for (int i = 0; i < n; i++)
    if (offered(i)) end += sprintf(end, "%s\"%s\"", end > text + 1 ? "," : "", name(i));
  strcpy(end, "]");
  mr3d_bundle_set(hello, key, text);
}

static const char *op_name(int i) { return ops[i].name; }
static const char *tier_name(int i) { return mr3d_tier_name((mr3d_tier)i); }
static bool op_offered(int op) {
  for (int t = 0; t < MR3D_N_TIERS; t++)
    if (offers(op, (mr3d_tier)t)) return true;
  return false;
}
static bool tier_offered(int tier) {
  for (int i = 0; i < N_OPS; i++)
    if (offers(i, (mr3d_tier)tier)) return true;
  return false;
}

static void set_promises(mr3d_bundle *hello) {
  uint32_t kept;
  mr3d_error error = {0};
  const mr3d_promise *promise;
  if (mr3d_promises_read(plugin.keeps ? plugin.keeps : "", &kept, &error) != MR3D_OK) die(1, "the plug-in's table, keeps: %s", error.message);
  for (int i = 0; (promise = mr3d_promise_at(i)); i++)
    if (kept >> promise->point & 1) mr3d_bundle_set(hello, promise->name, "fp32");
}

static void say_hello(int out) {
  mr3d_bundle *hello = mr3d_bundle_new();
  mr3d_bundle_set(hello, "type", "hello");
  mr3d_bundle_set(hello, "name", plugin.name);
  mr3d_bundle_set(hello, "version", plugin.version);
  set_names(hello, "ops", N_OPS, op_name, op_offered);
  set_names(hello, "tiers", MR3D_N_TIERS, tier_name, tier_offered);
  set_promises(hello);
  if (plugin.traces) mr3d_bundle_set(hello, "traces", "1");
  send(out, hello, NULL);
}

static void answer(int out, const mr3d_bundle *request, void *state) {
  const char *op = mr3d_bundle_get(request, "op"), *tier = mr3d_bundle_get(request, "tier"), *id = mr3d_bundle_get(request, "id");
  if (!id || !op || !tier) die(2, "a request has no metadata \"%s\"", !id ? "id" : !op ? "op" : "tier");
  int i = 0;
  while (i < N_OPS && strcmp(ops[i].name, op) != 0) i++;
  mr3d_tier t = mr3d_tier_named(tier);
  mr3d_bundle *frame;
  if (i == N_OPS) frame = mr3d_exchange_say("error", "there is no operator \"%.100s\"", op);
  else if (t == MR3D_N_TIERS) frame = mr3d_exchange_say("error", "there is no tier \"%.100s\"", tier);
  else if (!offers(i, t)) frame = mr3d_exchange_say("unsupported", "%s offers no %s at %s", plugin.name, op, tier);
  else if (mr3d_bundle_get(request, "trace") && !plugin.traces) frame = mr3d_exchange_say("unsupported", "%s gives no traces (metadata trace)", plugin.name);
  else frame = mr3d_exchange_run(request, function_of(i), state);
  send(out, frame, id);
  mr3d_exchange_done();
}

/* Answers frames until bye. */
static void serve(int in, int out, void *state) {
  bool greeted = false;
  for (;;) {
    mr3d_channel channel = {.to = -1, .from = in, .process = -1, .cap = UINT64_MAX / 2, .allocate = mr3d_pages_new};
    mr3d_frame bytes;
    mr3d_error error = {0};
    if (mr3d_frame_exchange(&channel, NULL, 0, &bytes, 0, &error) != MR3D_FRAME_DONE) die(2, "the suite %s, without a bye", error.message);
    mr3d_pages_read_only(bytes.bytes, bytes.size);
    mr3d_bundle *frame = NULL;
    if (mr3d_safetensors_parse(bytes.bytes, bytes.size, &frame, &error) != MR3D_OK)
      die(2, "a frame is no safetensors file: %s", error.message);
    const char *protocol = mr3d_bundle_get(frame, "protocol"), *type = mr3d_bundle_get(frame, "type");
    if (!protocol || strcmp(protocol, MR3D_PROTOCOL) != 0)
      die(2, "the suite speaks protocol \"%s\", this host speaks \"%s\"", protocol ? protocol : "(none)", MR3D_PROTOCOL);
    if (!type) type = "(none)";
    bool bye = strcmp(type, "bye") == 0;
    if (strcmp(type, "hello") == 0) say_hello(out), greeted = true;
    else if (greeted && strcmp(type, "request") == 0) answer(out, frame, state);
    else if (!bye) die(2, "a frame of type \"%s\" came where %s was expected", type, greeted ? "request or bye" : "hello");
    mr3d_bundle_free(&frame);
    mr3d_pages_free(bytes.bytes, bytes.size);
    if (bye) return;
  }
}

/** What the command line asks for. */
struct wishes {
  int threads;
  bool isolated;
  mr3d_hiding hiding;
  mr3d_isolation isolation;
  const char *plugin;
  char **command; /* in place of a plug-in */
  mr3d_confinement confinement;
};

#define USAGE "usage: mr3d-host [--threads N] [--isolate [--memory BYTES] [--hide FOLDER] [--blank FILE] ...] PLUGIN.so (mr3d starts it for lib:PLUGIN.so)\n" \
              "       mr3d-host [--hide FOLDER] [--blank FILE] ... [--keep PATH] ... [--forget] --confine COMMAND [WORD ...] (for exec:COMMAND)"

static void read_wishes(int argc, char **argv, struct wishes *w) {
  int i = 1;
  w->confinement.kept = mr3d_allocate(argc, sizeof *w->confinement.kept);
  w->hiding.files = mr3d_allocate(argc, sizeof *w->hiding.files);
  for (; i + 1 < argc && strncmp(argv[i], "--", 2) == 0; i++)
    if (strcmp(argv[i], "--isolate") == 0) w->isolated = true;
    else if (i + 2 < argc && strcmp(argv[i], "--threads") == 0) w->threads = atoi(argv[++i]);
    else if (i + 2 < argc && strcmp(argv[i], "--memory") == 0) w->isolation.memory = strtoull(argv[++i], NULL, 10);
    else if (i + 2 < argc && strcmp(argv[i], "--hide") == 0) w->hiding.folder = argv[++i];
    else if (i + 2 < argc && strcmp(argv[i], "--blank") == 0) w->hiding.files[w->hiding.n_files++] = argv[++i];
    else if (strcmp(argv[i], "--forget") == 0) w->confinement.forgets = true;
    else if (i + 2 < argc && strcmp(argv[i], "--keep") == 0) w->confinement.kept[w->confinement.n_kept++] = argv[++i];
    else if (strcmp(argv[i], "--confine") == 0) {
      w->command = argv + i + 1, w->confinement.hiding = w->hiding;
      return;
    } else break;
  if (i + 1 != argc) die(1, USAGE);
  w->plugin = argv[i], w->isolation.hiding = w->hiding;
}

/** Before anything of the plug-in's has run, so that it can't speak for the host. */
static void tell_protections(int out, const mr3d_protections *protections) {
  mr3d_bundle *frame = mr3d_bundle_new();
  mr3d_bundle_set(frame, "type", "isolation");
  mr3d_bundle_set(frame, "active", protections->active);
  mr3d_bundle_set(frame, "missing", protections->missing);
  send(out, frame, NULL);
}

/** Tells the protections on stdout, which then is the command's. */
static _Noreturn void become(char **command, const mr3d_confinement *confinement) {
  mr3d_protections protections;
  mr3d_confine(confinement, &protections);
  tell_protections(1, &protections);
  execv(command[0], command);
  die(1, "could not start %s: %s%s", command[0], strerror(errno), errno == ENOEXEC ? " (a script needs a first line such as #!/usr/bin/env python3)" : "");
}

int main(int argc, char **argv) {
  struct wishes wishes = {0};
  mr3d_protections protections = {0};
  read_wishes(argc, argv, &wishes);
  if (wishes.command) become(wishes.command, &wishes.confinement);
  if (wishes.isolated) mr3d_isolate(&wishes.isolation, &protections);

  /* The frames' descriptors are moved away, so that a print of the plug-in cannot corrupt a frame and a read cannot steal one. */
  int in = fcntl(0, F_DUPFD_CLOEXEC, 10), out = fcntl(1, F_DUPFD_CLOEXEC, 10), nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (in < 0 || out < 0 || dup2(nothing, 0) < 0 || dup2(2, 1) < 0) die(1, "stdin, stdout and stderr must be open");

  if (wishes.isolated) tell_protections(out, &protections);
  load(wishes.plugin);
  mr3d_faults_install();
  mr3d_backend_host host = {.struct_size = sizeof host, .abi_version = MR3D_BACKEND_ABI_VERSION, .threads = wishes.threads};
  void *state = NULL;
  int created = plugin.create ? plugin.create(&host, &state) : 0;
  if (created != 0) die(1, "the plug-in's create() returned %d", created);
  serve(in, out, state);
  if (plugin.destroy) plugin.destroy(state);
  return 0;
}
