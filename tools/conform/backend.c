#include "backend_kind.h"
#include "words.h"

#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frames.h"
#include "mr3d/trace.h"
#include "process.h"
#include "protocol.h"

static char *copy(const char *text) {
  size_t size = strlen(text) + 1;
  return memcpy(mr3d_allocate((long long)size, 1), text, size);
}

void mr3d_backend_introduce(mr3d_backend *backend, const char *name, const char *version, int n_ops, const char *const ops[], int n_tiers,
                            const mr3d_tier tiers[]) {
  const char **op_copies = mr3d_allocate(n_ops, sizeof *op_copies);
  mr3d_tier *tier_copies = mr3d_allocate(n_tiers, sizeof *tier_copies);
  for (int i = 0; i < n_ops; i++) op_copies[i] = copy(ops[i]);
  memcpy(tier_copies, tiers, (size_t)n_tiers * sizeof *tiers);
  backend->info.name = copy(name);
  backend->info.version = copy(version);
  backend->info.n_ops = n_ops, backend->info.ops = op_copies;
  backend->info.n_tiers = n_tiers, backend->info.tiers = tier_copies;
}

void mr3d_backend_protect(mr3d_backend *backend, const char *active, const char *missing) {
  free((char *)backend->info.protections);
  free((char *)backend->info.missing_protections);
  backend->info.protections = copy(active);
  backend->info.missing_protections = copy(missing);
}

static void forget(mr3d_backend *backend) {
  mr3d_backend_info *info = &backend->info;
  free((char *)info->protections);
  free((char *)info->missing_protections);
  for (int i = 0; i < info->n_ops; i++) free((char *)info->ops[i]);
  free((void *)info->ops);
  free((void *)info->tiers);
  free((char *)info->name);
  free((char *)info->version);
  free((char *)info->spec);
  free(backend);
}

/* The part after "kind:", or NULL. */
static const char *after(const char *spec, const char *kind) {
  size_t n = strlen(kind);
  return strncmp(spec, kind, n) == 0 ? spec + n : NULL;
}

static mr3d_status find_mutant(const char *name, const mr3d_mutant **mutant, mr3d_error *error) {
  *mutant = mr3d_mutant_named(name);
  if (*mutant) return MR3D_OK;
  int n = 0;
  const char **names = mr3d_allocate(mr3d_mutant_count(), sizeof *names);
  char(*full)[128] = mr3d_allocate(mr3d_mutant_count(), sizeof *full);
  for (; n < mr3d_mutant_count(); n++) {
    snprintf(full[n], sizeof full[n], "%s/%s", mr3d_mutant_at(n)->slug, mr3d_mutant_at(n)->name);
    names[n] = full[n];
  }
  const char *meant = mr3d_word_meant(name, n, names);
  mr3d_status status = mr3d_fail(error, MR3D_INVALID, "there is no mutant \"%s\"%s%s%s; `mr3d list mutants` shows all", name, meant ? "; did you mean \"" : "",
                                 meant ? meant : "", meant ? "\"?" : "");
  free(names);
  free(full);
  return status;
}

/** The place behind "slug/name@": a layer's number, or "model"; MR3D_EVERY_LAYER where there is no '@'. */
static mr3d_status find_place(const char *at, mr3d_mutant_place *place, mr3d_error *error) {
  place->layer = at ? MR3D_TRACE_MODEL : MR3D_EVERY_LAYER;
  if (!at || strcmp(at, "@model") == 0) return MR3D_OK;
  if (!at[1] || strlen(at) > 10 || at[1 + strspn(at + 1, "0123456789")])
    return mr3d_fail(error, MR3D_INVALID, "\"%.40s\" behind a mutant: expected @ and the number of a layer, or @model for the final norm and the head", at);
  place->layer = atoll(at + 1);
  return MR3D_OK;
}

/** "slug/name" or "slug/name@place". */
static mr3d_status read_place(char *text, mr3d_mutant_place *place, mr3d_error *error) {
  char *at = strchr(text, '@');
  mr3d_status status = find_place(at, place, error);
  if (at) *at = 0;
  if (!status) status = find_mutant(text, &place->mutant, error);
  if (status || !at) return status;
  mr3d_mutant_server *server = mr3d_mutant_server_new_at(1, place, &(mr3d_server_options){.threads = 1});
  if (!server) return mr3d_fail(error, MR3D_INVALID, "%s/%s is no mistake of %s", place->mutant->slug, place->mutant->name, place->layer == MR3D_TRACE_MODEL ? "the final norm or the head" : "a single layer");
  mr3d_mutant_server_free(&server);
  return MR3D_OK;
}

/** Whether one backend can have all of them. */
static mr3d_status check_places(int n, const mr3d_mutant_place *places, mr3d_error *error) {
  for (int i = 0; i < n; i++)
    for (int k = 0; k < i; k++) {
      const mr3d_mutant *a = places[k].mutant, *b = places[i].mutant;
      const bool everywhere = places[i].layer == MR3D_EVERY_LAYER;
      if (everywhere != (places[k].layer == MR3D_EVERY_LAYER)) return mr3d_fail(error, MR3D_INVALID, "mutants %s/%s and %s/%s: give both a place (@LAYER or @model), or neither", a->slug, a->name, b->slug, b->name);
      if (i > 1 && everywhere) return mr3d_fail(error, MR3D_INVALID, "at most two mutants without a place at once");
      if (places[i].layer == places[k].layer && !mr3d_mutants_combine(a, b))
        return mr3d_fail(error, MR3D_INVALID, "mutants %s/%s and %s/%s replace the same operator, or hang: one backend cannot have both", a->slug, a->name, b->slug, b->name);
    }
  return MR3D_OK;
}

/** "slug/name", "slug/name+slug/name", or up to MR3D_MOST_PLACES "slug/name@place" joined by '+'. */
static mr3d_status open_mutant(mr3d_backend *backend, const char *names, mr3d_error *error) {
  mr3d_mutant_place places[MR3D_MOST_PLACES];
  int n = 0;
  mr3d_status status = MR3D_OK;
  char *all = copy(names);
  for (char *one = all, *next; one && !status; one = next) {
    next = strchr(one, '+');
    if (next) *next++ = 0;
    if (n == MR3D_MOST_PLACES) status = mr3d_fail(error, MR3D_INVALID, "at most %d mutants at once", MR3D_MOST_PLACES);
    else status = read_place(one, &places[n++], error);
  }
  free(all);
  if (!status) status = check_places(n, places, error);
  if (!status) mr3d_backend_open_builtin(backend, false, n, places);
  return status;
}

/* ---- a command behind mr3d-host, which confines it ---- */

typedef struct command_line {
  int n;
  char **words; /* its own, NULL-terminated */
} command_line;

static void add_word(command_line *line, const char *word) {
  char **words = realloc(line->words, (size_t)(line->n + 2) * sizeof *words);
  if (!words) abort();
  line->words = words;
  line->words[line->n++] = copy(word);
  line->words[line->n] = NULL;
}

static void add_kept(command_line *line, const char *path) {
  for (int i = 1; i < line->n; i++)
    if (strcmp(line->words[i], path) == 0) return;
  add_word(line, "--keep");
  add_word(line, path);
}

/** The folder that a program or library of this process lies in. */
static int add_folder_of(struct dl_phdr_info *object, size_t size, void *user) {
  (void)size;
  char *path = realpath(*object->dlpi_name ? object->dlpi_name : "/proc/self/exe", NULL), *slash = path ? strrchr(path, '/') : NULL;
  if (slash && slash > path) {
    *slash = 0;
    add_kept(user, path);
  }
  free(path);
  return 0;
}

static mr3d_status open_confined(mr3d_backend *backend, const char *host, char **command, mr3d_error *error) {
  char path[4096], answers[4096];
  mr3d_status status = mr3d_process_find(command[0], path, error);
  if (status != MR3D_OK) return status;
  command_line line = {0};
  add_word(&line, host);
  if (backend->options.hidden && snprintf(answers, sizeof answers, "%s/set", backend->options.hidden) < (int)sizeof answers) {
    char *hidden = realpath(answers, NULL);
    if (hidden) add_word(&line, "--hide"), add_word(&line, hidden);
    free(hidden);
  }
  for (const char *const *secret = backend->options.secrets; secret && *secret; secret++) {
    char *real = realpath(*secret, NULL);
    if (real) add_word(&line, "--blank"), add_word(&line, real);
    free(real);
  }
  if (backend->options.forgets) add_word(&line, "--forget");
  add_kept(&line, host);
  dl_iterate_phdr(add_folder_of, &line);
  for (const char *const *kept = backend->options.kept; kept && *kept; kept++) add_kept(&line, *kept);
  add_word(&line, "--confine");
  add_word(&line, path);
  for (char **word = command + 1; *word; word++) add_word(&line, *word);
  status = mr3d_backend_open_exec(backend, line.words, MR3D_FRONT_CONFINED, error);
  if (status != MR3D_OK && error) {
    mr3d_error said = *error;
    mr3d_fail(error, status, "%.850s (it sees no processes, users and terminals but its own: if it needs them, as sudo does, run it with --no-isolation)", said.message);
  }
  mr3d_words_free(&line.words);
  return status;
}

static mr3d_status open_command(mr3d_backend *backend, const char *command, mr3d_error *error) {
  char **words, *host = backend->options.no_isolation ? NULL : mr3d_backend_find_host();
  mr3d_status status = mr3d_words_split(command, &words, error);
  if (status == MR3D_OK) {
    status = host ? open_confined(backend, host, words, error) : mr3d_backend_open_exec(backend, words, MR3D_FRONT_COMMAND, error);
    mr3d_words_free(&words);
  }
  free(host);
  return status;
}

mr3d_status mr3d_backend_open(const char *spec, const mr3d_backend_options *options, mr3d_backend **out, mr3d_error *error) {
  mr3d_backend *backend = mr3d_allocate(1, sizeof *backend);
  if (options) backend->options = *options;
  if (backend->options.frame_cap == 0) backend->options.frame_cap = MR3D_FRAME_CAP;
  backend->info.spec = copy(spec);
  mr3d_backend_protect(backend, "", "");

  const char *rest;
  mr3d_status status;
  if (strcmp(spec, "builtin:reference") == 0) mr3d_backend_open_builtin(backend, false, 0, NULL), status = MR3D_OK;
  else if (strcmp(spec, "builtin:emulated") == 0) mr3d_backend_open_builtin(backend, true, 0, NULL), status = MR3D_OK;
  else if ((rest = after(spec, "mutant:"))) status = open_mutant(backend, rest, error);
  else if ((rest = after(spec, "exec:"))) status = open_command(backend, rest, error);
  else if ((rest = after(spec, "dir:"))) status = mr3d_backend_open_dir(backend, rest, error);
  else if ((rest = after(spec, "lib:"))) status = mr3d_backend_open_lib(backend, rest, error);
  else
    status = mr3d_fail(error, MR3D_INVALID,
                       "unknown backend \"%s\"; expected builtin:reference, builtin:emulated, mutant:PITFALL/NAME, exec:COMMAND, lib:PATH.so or dir:ANSWERS", spec);
  if (status != MR3D_OK) {
    forget(backend);
    return status;
  }
  *out = backend;
  return MR3D_OK;
}

void mr3d_backend_rest(mr3d_backend *backend, int threads) {
  backend->options.threads = threads;
  if (backend->rest) backend->rest(backend);
}

void mr3d_backend_close(mr3d_backend **backend) {
  if (!*backend) return;
  (*backend)->close(*backend);
  forget(*backend);
  *backend = NULL;
}

const mr3d_backend_info *mr3d_backend_info_of(const mr3d_backend *backend) { return &backend->info; }

bool mr3d_backend_offers(const mr3d_backend_info *info, const char *op) {
  for (int i = 0; i < info->n_ops; i++)
    if (strcmp(info->ops[i], op) == 0) return true;
  return false;
}

void mr3d_backend_ask(mr3d_backend *backend, const mr3d_bundle *request, double timeout, mr3d_reply *reply) {
  *reply = (mr3d_reply){0};
  double start = mr3d_now();
  backend->ask(backend, request, timeout, reply);
  reply->seconds = mr3d_now() - start;
  if (!reply->log) reply->log = copy("");
}

void mr3d_backend_about(mr3d_backend *backend, const char *test, int step, mr3d_tier tier, uint64_t seed) {
  if (backend->about) backend->about(backend, test, step, tier, seed);
}

char *mr3d_backend_remarks(mr3d_backend *backend) { return backend->remarks ? backend->remarks(backend) : NULL; }

bool mr3d_backend_went_astray(mr3d_backend *backend, char message[256]) {
  return backend->went_astray && backend->went_astray(backend, message);
}

void mr3d_reply_clear(mr3d_reply *reply) {
  mr3d_bundle_free(&reply->answer);
  free(reply->log);
  *reply = (mr3d_reply){0};
}
