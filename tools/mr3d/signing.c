#include "signing.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "text.h"

static mr3d_status read_line(FILE *from, const char *name, char *line, size_t size, mr3d_error *error) {
  if (!fgets(line, (int)size, from)) return mr3d_fail(error, MR3D_IO, "%s: there is no passphrase", name);
  line[strcspn(line, "\r\n")] = '\0';
  return *line ? MR3D_OK : mr3d_fail(error, MR3D_INVALID, "%s: the passphrase is empty", name);
}

static mr3d_status ask(FILE *terminal, const char *question, char *line, size_t size, mr3d_error *error) {
  struct termios before, silent;
  const bool shown = tcgetattr(fileno(terminal), &before) == 0;
  silent = before;
  silent.c_lflag &= ~(tcflag_t)ECHO;
  fputs(question, terminal);
  fflush(terminal);
  if (shown) tcsetattr(fileno(terminal), TCSAFLUSH, &silent);
  mr3d_status status = read_line(terminal, "terminal", line, size, error);
  if (shown) tcsetattr(fileno(terminal), TCSAFLUSH, &before);
  fputc('\n', terminal);
  return status;
}

mr3d_status mr3d_get_passphrase(const char *file, bool twice, char *passphrase, size_t size, mr3d_error *error) {
  FILE *from = fopen(file ? file : "/dev/tty", file ? "r" : "r+");
  if (!from && file) return mr3d_fail(error, MR3D_IO, "%s: %s", file, strerror(errno));
  if (!from) return mr3d_fail(error, MR3D_IO, "a passphrase is needed and there is no terminal: give --passphrase-file FILE");
  char again[1024];
  mr3d_status status = file ? read_line(from, file, passphrase, size, error) : ask(from, "Passphrase: ", passphrase, size, error);
  if (status == MR3D_OK && !file && twice) {
    status = ask(from, "Once more: ", again, sizeof again, error);
    if (status == MR3D_OK && strcmp(again, passphrase) != 0) status = mr3d_fail(error, MR3D_INVALID, "the two are not alike");
    sodium_memzero(again, sizeof again);
  }
  fclose(from);
  return status;
}

mr3d_status mr3d_open_key(const char *path, const char *passphrase_file, mr3d_secret_key *key, mr3d_error *error) {
  char passphrase[1024] = "";
  bool sealed = false;
  mr3d_status status = mr3d_secret_key_is_sealed(path, &sealed, error);
  if (status == MR3D_OK && sealed) status = mr3d_get_passphrase(passphrase_file, false, passphrase, sizeof passphrase, error);
  if (status == MR3D_OK) status = mr3d_secret_key_load(path, sealed ? passphrase : NULL, key, error);
  sodium_memzero(passphrase, sizeof passphrase);
  return status;
}

mr3d_status mr3d_load_keys(const char *list, int *n, mr3d_public_key keys[MR3D_MAX_KEYS], mr3d_error *error) {
  *n = 0;
  for (const char *at = list ? list + strspn(list, ",") : NULL; at && *at; at += strspn(at, ",")) {
    char path[4096];
    snprintf(path, sizeof path, "%.*s", (int)strcspn(at, ","), at);
    if (*n == MR3D_MAX_KEYS) return mr3d_fail(error, MR3D_INVALID, "more than %d keys", MR3D_MAX_KEYS);
    mr3d_status status = mr3d_public_key_load(path, &keys[(*n)++], error);
    if (status != MR3D_OK) return status;
    at += strcspn(at, ",");
  }
  return list && *n == 0 ? mr3d_fail(error, MR3D_INVALID, "\"%s\" names no key: what no key signed proves nothing; give the file of a public key (KEY.pub of mr3d keygen)", list) : MR3D_OK;
}

mr3d_status mr3d_new_file(const char *path, mr3d_error *error) {
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0 && errno == EEXIST) return mr3d_fail(error, MR3D_INVALID, "%s exists already: what is signed never takes the place of an old file; choose another name or remove it", path);
  if (fd < 0) return mr3d_fail(error, MR3D_IO, "%s: cannot create it: %s", path, strerror(errno));
  close(fd);
  unlink(path);
  return MR3D_OK;
}

mr3d_status mr3d_signed_by_one(const mr3d_envelope *envelope, int n, const mr3d_public_key keys[], mr3d_error *error) {
  mr3d_status status = mr3d_fail(error, MR3D_INVALID, "signature: no key was given to check it with");
  for (int i = 0; i < n; i++) {
    mr3d_error own = {0};
    const mr3d_status one = mr3d_envelope_check(envelope, &keys[i], &own);
    if (one == MR3D_OK) return MR3D_OK;
    if (i == 0 || one == MR3D_INVALID) status = mr3d_fail(error, one, "%s", own.message);
  }
  return status;
}

mr3d_status mr3d_open_waivers(const char *path, const char *keys, const mr3d_public_key *own, mr3d_envelope **envelope, mr3d_error *error) {
  mr3d_public_key known[MR3D_MAX_KEYS];
  mr3d_waivers *waivers = NULL;
  char day[32];
  int n = 0;
  mr3d_text_now(day);
  day[10] = '\0';
  mr3d_status status = mr3d_load_keys(keys, &n, known, error);
  if (n == 0) known[n++] = *own;
  if (status == MR3D_OK) status = mr3d_envelope_load(path, envelope, error);
  if (status == MR3D_OK && mr3d_signed_by_one(*envelope, n, known, error) != MR3D_OK) status = mr3d_fail_in(error, "%s", path);
  if (status == MR3D_OK && mr3d_waivers_read(*envelope, day, &waivers, error) != MR3D_OK) status = mr3d_fail_in(error, "%s", path);
  mr3d_waivers_free(&waivers);
  return status;
}

mr3d_status mr3d_issue_statement(const char *payload, const mr3d_conclusion *c, const mr3d_secret_key *key, const char *out, const char *failure, mr3d_error *error) {
  const char *path = c->kind == MR3D_FAILURE ? failure : out;
  mr3d_envelope *envelope = mr3d_envelope_new(MR3D_STATEMENT_TYPE, payload, strlen(payload));
  mr3d_status status = mr3d_envelope_sign(envelope, key, error);
  if (status == MR3D_OK) status = mr3d_envelope_save(envelope, path, error);
  if (status == MR3D_OK) printf("\n%s: %s\nsigned by key %s: %s\n", mr3d_kind_name(c->kind), c->verdict, key->public.id, path);
  mr3d_envelope_free(&envelope);
  return status;
}
