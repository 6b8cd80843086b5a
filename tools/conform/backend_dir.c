/* dir:FOLDER: answers that someone gave elsewhere, as files (docs/writing-a-backend.md, "Offline"). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../ref/base/bundle.h"
#include "backend_kind.h"
#include "frames.h"
#include "mr3d/safetensors.h"
#include "offline.h"
#include "parallel.h"
#include "protocol.h"

#define ENDING ".ans.safetensors"
#define MOST_NAMED 5 /* of the files that answer nothing */

/** A file of the folder. */
typedef struct answer_file {
  char *name;      /* without the folder */
  char *id;        /* its metadata `id`, or NULL */
  char *problem;   /* why it cannot be read, or NULL */
  bool is_request; /* `id` is that of an exported request, as `of` says */
  mr3d_request_id of;
} answer_file;

typedef struct folder {
  char *path;
  int n;
  answer_file *files;
  bool *taken; /* [n]: it is of a case that was asked, or was found under another name; shared by the processes of a run */
  bool announced; /* `about` is of the request that comes next */
  char test[200];
  int step;
  mr3d_tier tier;
  uint64_t seed;
} folder;

/* ---- the folder ---- */

/* A link may lead to another file of the folder, not to one of whoever runs the suite. */
static mr3d_status stays_inside(const char *folder_path, const char *path, mr3d_error *error) {
  char *real = realpath(path, NULL);
  if (!real) return mr3d_fail(error, MR3D_IO, "cannot find it: %s", strerror(errno));
  char *home = realpath(folder_path, NULL);
  const size_t n = home ? strlen(home) : 0;
  const bool inside = home && strncmp(real, home, n) == 0 && (real[n] == '/' || n == 1);
  mr3d_status status = inside ? MR3D_OK : mr3d_fail(error, MR3D_IO, "a link out of the folder");
  free(real);
  free(home);
  return status;
}

/* Copied, not mapped: whoever answers may still be at work on the file. */
static mr3d_status read_all(int fd, mr3d_bundle **bundle, mr3d_error *error) {
  struct stat about;
  if (fstat(fd, &about) != 0) return mr3d_fail(error, MR3D_IO, "cannot examine it: %s", strerror(errno));
  if (!S_ISREG(about.st_mode)) return mr3d_fail(error, MR3D_IO, "%s, not a regular file", S_ISDIR(about.st_mode) ? "a folder" : "a device or pipe");
  if ((uint64_t)about.st_size > MR3D_FRAME_CAP)
    return mr3d_fail(error, MR3D_IO, "%lld bytes, at most %llu are accepted", (long long)about.st_size, (unsigned long long)MR3D_FRAME_CAP);
  const size_t size = (size_t)about.st_size;
  char *bytes = mr3d_frame_new(size);
  if (!bytes) return mr3d_fail(error, MR3D_IO, "%zu bytes, for which there is no memory", size);
  mr3d_status status = MR3D_OK;
  for (size_t done = 0; done < size && status == MR3D_OK;) {
    const ssize_t n = read(fd, bytes + done, size - done);
    if (n == 0) status = mr3d_fail(error, MR3D_IO, "cut short while it was read: %zu of %zu bytes", done, size);
    else if (n < 0 && errno != EINTR) status = mr3d_fail(error, MR3D_IO, "cannot read it: %s", strerror(errno));
    else if (n > 0) done += (size_t)n;
  }
  if (status == MR3D_OK) status = mr3d_safetensors_parse(bytes, size, bundle, error);
  if (status == MR3D_OK) mr3d_bundle_keep(*bundle, bytes, size, mr3d_frame_free);
  else mr3d_frame_free(bytes, size);
  return status;
}

static mr3d_status open_answer(const folder *f, const answer_file *file, mr3d_bundle **bundle, mr3d_error *error) {
  char path[4352];
  snprintf(path, sizeof path, "%.4000s/%.300s", f->path, file->name);
  mr3d_status status = stays_inside(f->path, path, error);
  if (status == MR3D_OK) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a named pipe is refused instead of waited for */
    status = fd < 0 ? mr3d_fail(error, MR3D_IO, "cannot open it: %s", strerror(errno)) : read_all(fd, bundle, error);
    if (fd >= 0) close(fd);
  }
  return status == MR3D_OK ? status : mr3d_fail_in(error, "%.300s", file->name);
}

static void read_file(const folder *f, answer_file *file) {
  mr3d_bundle *bundle = NULL;
  mr3d_error error = {0};
  if (open_answer(f, file, &bundle, &error) != MR3D_OK) {
    file->problem = strdup(error.message);
    return;
  }
  const char *id = mr3d_bundle_get(bundle, "id");
  if (id) file->id = strdup(id);
  file->is_request = id && mr3d_request_id_parse(id, &file->of);
  mr3d_bundle_free(&bundle);
}

static int by_name(const void *a, const void *b) { return strcmp(((const answer_file *)a)->name, ((const answer_file *)b)->name); }

static mr3d_status read_folder(folder *f, mr3d_error *error) {
  DIR *all = opendir(f->path);
  if (!all) return mr3d_fail(error, MR3D_IO, "answers %s: %s", *f->path ? f->path : "(empty path)", strerror(errno));
  for (struct dirent *entry; (entry = readdir(all));) {
    size_t length = strlen(entry->d_name), ending = strlen(ENDING);
    if (length <= ending || strcmp(entry->d_name + length - ending, ENDING) != 0) continue;
    answer_file *more = realloc(f->files, (size_t)(f->n + 1) * sizeof *more);
    if (!more) abort();
    f->files = more;
    f->files[f->n] = (answer_file){.name = strdup(entry->d_name)};
    read_file(f, &f->files[f->n++]);
  }
  closedir(all);
  if (f->n) qsort(f->files, (size_t)f->n, sizeof *f->files, by_name);
  return MR3D_OK;
}

/** What it offers is what it holds answers to. */
static mr3d_status introduce(mr3d_backend *backend, const folder *f, mr3d_error *error) {
  const char **ops = mr3d_allocate(f->n, sizeof *ops);
  mr3d_tier tiers[MR3D_N_TIERS];
  int n_ops = 0, n_tiers = 0;
  for (int i = 0; i < f->n; i++) {
    const mr3d_request_id *of = &f->files[i].of;
    mr3d_tier tier = mr3d_tier_named(of->tier);
    if (!f->files[i].is_request || tier == MR3D_N_TIERS) continue;
    int o = 0, t = 0;
    while (o < n_ops && strcmp(ops[o], of->op) != 0) o++;
    while (t < n_tiers && tiers[t] != tier) t++;
    if (o == n_ops) ops[n_ops++] = of->op;
    if (t == n_tiers) tiers[n_tiers++] = tier;
  }
  if (n_ops > 0) mr3d_backend_introduce(backend, "offline answers", "", n_ops, ops, n_tiers, tiers);
  free(ops);
  if (n_ops > 0) return MR3D_OK;
  if (f->n == 0)
    return mr3d_fail(error, MR3D_INVALID, "%s holds no answer: no file is named NAME" ENDING ", where NAME.req.safetensors is a request of `mr3d export`", f->path);
  const answer_file *first = &f->files[0];
  return mr3d_fail(error, MR3D_INVALID, "none of the %d answers in %s is to a request of `mr3d export`; the first, %s: %.600s", f->n, f->path, first->name,
                   first->problem ? first->problem
                   : first->id    ? "its metadata \"id\" is not as exported"
                                  : "it has no metadata \"id\": an answer brings back the id of its request");
}

/* ---- answers ---- */

/** Why a file whose id is not the one that was asked for holds something else. */
static void tell_difference(const answer_file *file, const mr3d_request_id *asked, char *message, size_t size) {
  const mr3d_request_id *of = &file->of;
  if (file->problem) snprintf(message, size, "unreadable: %.800s", file->problem);
  else if (!file->id) snprintf(message, size, "%.300s has no metadata \"id\", so it is not known what it answers: write back the id of its request", file->name);
  else if (!file->is_request) snprintf(message, size, "%.300s has the id \"%.200s\", which no exported request has", file->name, file->id);
  else if (strcmp(of->test, asked->test) != 0 || strcmp(of->tier, asked->tier) != 0 || of->step != asked->step)
    snprintf(message, size, "%.300s is renamed: by its id it answers step %d of %.200s at %s", file->name, of->step, of->test, of->tier);
  else if (of->seed != asked->seed)
    snprintf(message, size, "%.300s is stale: it answers the request of seed %llu, asked was that of seed %llu; check with --seed %llu, or export anew",
             file->name, (unsigned long long)of->seed, (unsigned long long)asked->seed, (unsigned long long)of->seed);
  else if (strcmp(of->version, asked->version) != 0)
    snprintf(message, size, "%.300s is stale: it answers a request of mr3d %.40s, this is mr3d %.40s; export anew", file->name, of->version, asked->version);
  else snprintf(message, size, "%.300s is stale: the request has changed since it was exported, though the version of mr3d has not; export anew", file->name);
}

/** The reply that an answer file stands for, as mr3d compare reads it. */
static void read_reply(const folder *f, const answer_file *file, mr3d_reply *reply) {
  static const char *const types[] = {"answer", "error", "unsupported", "crash", "timeout", "malformed"}; /* in the order of mr3d_reply_kind */
  mr3d_error error = {0};
  reply->kind = MR3D_REPLY_MALFORMED;
  if (open_answer(f, file, &reply->answer, &error) != MR3D_OK) {
    snprintf(reply->message, sizeof reply->message, "unreadable: %.900s", error.message);
    return;
  }
  const char *type = mr3d_bundle_get(reply->answer, "type"), *message = mr3d_bundle_get(reply->answer, "message");
  int kind = MR3D_REPLY_ANSWER;
  while (type && kind <= MR3D_REPLY_MALFORMED && strcmp(type, types[kind]) != 0) kind++;
  if (kind <= MR3D_REPLY_MALFORMED) {
    reply->kind = (mr3d_reply_kind)kind;
    snprintf(reply->message, sizeof reply->message, "%s", message ? message : "");
  } else {
    snprintf(reply->message, sizeof reply->message, "%.300s: metadata \"type\" is \"%.60s\", expected answer, error or unsupported", file->name, type);
  }
  if (reply->kind != MR3D_REPLY_ANSWER) mr3d_bundle_free(&reply->answer);
}

static void ask(mr3d_backend *backend, const mr3d_bundle *request, double timeout, mr3d_reply *reply) {
  folder *f = backend->state;
  mr3d_request_id asked;
  char text[MR3D_REQUEST_ID_SIZE], name[256];
  (void)timeout;
  if (!f->announced) { /* not of a case: it was not exported */
    reply->kind = MR3D_REPLY_UNSUPPORTED;
    snprintf(reply->message, sizeof reply->message, "dir: holds answers to exported requests only");
    return;
  }
  f->announced = false;
  mr3d_request_id_of(f->test, f->step, f->tier, f->seed, request, &asked);
  mr3d_request_id_print(&asked, text);
  mr3d_request_name(f->test, f->tier, f->step, name);
  strcat(name, ENDING);
  reply->kind = MR3D_REPLY_MALFORMED;
  for (int i = 0; i < f->n; i++) {
    if (strcmp(f->files[i].name, name) != 0) continue;
    if (f->files[i].id && strcmp(f->files[i].id, text) == 0) read_reply(f, &f->files[i], reply);
    else tell_difference(&f->files[i], &asked, reply->message, sizeof reply->message);
    return;
  }
  for (int i = 0; i < f->n; i++) {
    if (!f->files[i].id || strcmp(f->files[i].id, text) != 0) continue;
    f->taken[i] = true;
    snprintf(reply->message, sizeof reply->message, "%s is missing, but %.300s answers this request: it is renamed; give it back its name", name, f->files[i].name);
    return;
  }
  snprintf(reply->message, sizeof reply->message, "%s is missing: nobody answered this request; what is not offered is answered by a file of type \"unsupported\"", name);
}

static void about(mr3d_backend *backend, const char *test, int step, mr3d_tier tier, uint64_t seed) {
  folder *f = backend->state;
  char name[256];
  f->announced = true, f->step = step, f->tier = tier, f->seed = seed;
  snprintf(f->test, sizeof f->test, "%s", test);
  mr3d_request_name(test, tier, 0, name);
  const size_t stem = strlen(name) - 3; /* all steps of the case, asked or not */
  for (int i = 0; i < f->n; i++)
    if (strncmp(f->files[i].name, name, stem) == 0) f->taken[i] = true;
}

/* ---- what was left over ---- */

static char *remarks(mr3d_backend *backend) {
  const folder *f = backend->state;
  int extra = 0, named = 0;
  char *text = NULL;
  size_t size = 0;
  for (int i = 0; i < f->n; i++) extra += !f->taken[i];
  if (extra == 0) return NULL;
  FILE *to = open_memstream(&text, &size);
  fprintf(to, "%d extra answer file%s in %s, to nothing that this run asked:", extra, extra == 1 ? "" : "s", f->path);
  for (int i = 0; i < f->n && named < MOST_NAMED; i++) {
    const answer_file *file = &f->files[i];
    if (f->taken[i]) continue;
    fprintf(to, "%s %s", named++ ? "," : "", file->name);
    if (file->is_request) fprintf(to, " (%s at %s, step %d, seed %llu, mr3d %s)", file->of.test, file->of.tier, file->of.step, (unsigned long long)file->of.seed, file->of.version);
    else fprintf(to, file->problem ? " (unreadable)" : file->id ? " (its id is no exported request's)" : " (without an id)");
  }
  if (extra > named) fprintf(to, " and %d more", extra - named);
  fclose(to);
  return text;
}

static void close_dir(mr3d_backend *backend) {
  folder *f = backend->state;
  for (int i = 0; i < f->n; i++) free(f->files[i].name), free(f->files[i].id), free(f->files[i].problem);
  mr3d_shared_free(f->taken, (size_t)f->n * sizeof *f->taken);
  free(f->files);
  free(f->path);
  free(f);
}

mr3d_status mr3d_backend_open_dir(mr3d_backend *backend, const char *path, mr3d_error *error) {
  folder *f = mr3d_allocate(1, sizeof *f);
  f->path = strdup(path);
  backend->state = f, backend->ask = ask, backend->about = about, backend->remarks = remarks, backend->close = close_dir;
  mr3d_status status = read_folder(f, error);
  if (status == MR3D_OK && !(f->taken = mr3d_shared_memory((size_t)f->n * sizeof *f->taken))) status = mr3d_fail(error, MR3D_IO, "no shared memory");
  if (status == MR3D_OK) status = introduce(backend, f, error);
  if (status != MR3D_OK) close_dir(backend);
  return status;
}
