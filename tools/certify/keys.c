#include "keys.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "envelope.h"
#include "file.h"
#include "json.h"
#include "text.h"

static mr3d_status start_sodium(mr3d_error *error) {
  return sodium_init() < 0 ? mr3d_fail(error, MR3D_IO, "libsodium cannot start: the system gives no random bytes") : MR3D_OK;
}

static void name_key(mr3d_public_key *key) { mr3d_text_digest(key->bytes, sizeof key->bytes, key->id); }

mr3d_status mr3d_secret_key_draw(mr3d_secret_key *key, mr3d_error *error) {
  mr3d_status status = start_sodium(error);
  if (status != MR3D_OK) return status;
  crypto_sign_keypair(key->public.bytes, key->bytes);
  name_key(&key->public);
  return MR3D_OK;
}

void mr3d_secret_key_clear(mr3d_secret_key *key) { sodium_memzero(key, sizeof *key); }

/* ---- public keys ---- */

char *mr3d_public_key_print(const mr3d_public_key *key) {
  char hex[65], *text = mr3d_allocate(400, 1);
  sodium_bin2hex(hex, sizeof hex, key->bytes, sizeof key->bytes);
  snprintf(text, 400, "{\"keyid\":\"%s\",\"keytype\":\"ed25519\",\"scheme\":\"ed25519\",\"keyval\":{\"public\":\"%s\"}}\n", key->id, hex);
  return text;
}

static bool is_text(const cJSON *object, const char *key, const char *text) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
  return cJSON_IsString(item) && strcmp(item->valuestring, text) == 0;
}

/** Bytes given in hexadecimal, exactly `size` of them. */
static bool read_hex(const cJSON *object, const char *key, unsigned char *bytes, size_t size) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
  size_t n = 0;
  return cJSON_IsString(item) && strlen(item->valuestring) == 2 * size &&
         sodium_hex2bin(bytes, size, item->valuestring, 2 * size, NULL, &n, NULL) == 0 && n == size;
}

static mr3d_status read_public(const cJSON *root, const char *const keys[], const char *const value_keys[], mr3d_public_key *key, mr3d_error *error) {
  const cJSON *value = cJSON_GetObjectItemCaseSensitive(root, "keyval");
  mr3d_public_key read;
  if (!mr3d_text_is_plain(root)) return mr3d_fail(error, MR3D_FORMAT, "a key: a text holds control characters");
  mr3d_status status = mr3d_text_keys(root, "a key", keys, error);
  if (status == MR3D_OK) status = mr3d_text_keys(value, "a key's keyval", value_keys, error);
  if (status != MR3D_OK) return status;
  if (!is_text(root, "keytype", "ed25519") || !is_text(root, "scheme", "ed25519")) return mr3d_fail(error, MR3D_FORMAT, "a key: keytype and scheme must be ed25519");
  if (!read_hex(value, "public", read.bytes, sizeof read.bytes)) return mr3d_fail(error, MR3D_FORMAT, "a key: public must be 64 hexadecimal digits");
  name_key(&read);
  if (!is_text(root, "keyid", read.id)) return mr3d_fail(error, MR3D_FORMAT, "a key: keyid must be the SHA-256 of the public key's bytes, %s", read.id);
  *key = read;
  return MR3D_OK;
}

static const char *const public_keys[] = {"keyid", "keytype", "scheme", "keyval", NULL}, *const public_value[] = {"public", NULL},
                         *const plain_value[] = {"public", "private", NULL}, *const sealed_value[] = {"public", "sealed", NULL};

mr3d_status mr3d_public_key_parse(const char *text, size_t size, mr3d_public_key *key, mr3d_error *error) {
  cJSON *root = NULL;
  mr3d_status status = mr3d_json_parse(text, size, MR3D_JSON_ANY_NUMBER, &root, error);
  if (status != MR3D_OK) return status;
  if (cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(root, "keyval"), "private") ||
      cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(root, "keyval"), "sealed"))
    status = mr3d_fail(error, MR3D_INVALID, "this is a private key; the public one, which others may have, lies beside it and ends with .pub");
  else status = read_public(root, public_keys, public_value, key, error);
  cJSON_Delete(root);
  return status;
}

mr3d_status mr3d_public_key_load(const char *path, mr3d_public_key *key, mr3d_error *error) {
  void *bytes;
  size_t size;
  mr3d_status status = mr3d_map(path, &bytes, &size, error);
  if (status != MR3D_OK) return status;
  status = mr3d_public_key_parse(bytes, size, key, error);
  mr3d_unmap(bytes, size);
  return status == MR3D_OK ? MR3D_OK : mr3d_fail_in(error, "%s", path);
}

/* ---- private keys ---- */

/** {salt, opslimit, memlimit, nonce, box}: Argon2id gives the key of an XSalsa20-Poly1305 box that holds the seed. */
static cJSON *seal(const unsigned char seed[32], const char *passphrase) {
  unsigned char salt[crypto_pwhash_SALTBYTES], nonce[crypto_secretbox_NONCEBYTES], key[crypto_secretbox_KEYBYTES], box[32 + crypto_secretbox_MACBYTES];
  const unsigned long long ops = crypto_pwhash_OPSLIMIT_MODERATE;
  const size_t memory = crypto_pwhash_MEMLIMIT_MODERATE;
  char hex[2 * sizeof box + 1];
  randombytes_buf(salt, sizeof salt);
  randombytes_buf(nonce, sizeof nonce);
  if (crypto_pwhash(key, sizeof key, passphrase, strlen(passphrase), salt, ops, memory, crypto_pwhash_ALG_ARGON2ID13) != 0) return NULL;
  crypto_secretbox_easy(box, seed, 32, nonce, key);
  sodium_memzero(key, sizeof key);
  cJSON *sealed = cJSON_CreateObject();
  cJSON_AddStringToObject(sealed, "kdf", "argon2id13");
  cJSON_AddNumberToObject(sealed, "opslimit", (double)ops);
  cJSON_AddNumberToObject(sealed, "memlimit", (double)memory);
  cJSON_AddStringToObject(sealed, "salt", sodium_bin2hex(hex, sizeof hex, salt, sizeof salt));
  cJSON_AddStringToObject(sealed, "nonce", sodium_bin2hex(hex, sizeof hex, nonce, sizeof nonce));
  cJSON_AddStringToObject(sealed, "box", sodium_bin2hex(hex, sizeof hex, box, sizeof box));
  return sealed;
}

static mr3d_status open_seal(const cJSON *sealed, const char *passphrase, unsigned char seed[32], mr3d_error *error) {
  static const char *const keys[] = {"kdf", "opslimit", "memlimit", "salt", "nonce", "box", NULL};
  unsigned char salt[crypto_pwhash_SALTBYTES], nonce[crypto_secretbox_NONCEBYTES], key[crypto_secretbox_KEYBYTES], box[32 + crypto_secretbox_MACBYTES];
  int64_t ops, memory;
  mr3d_status status = mr3d_text_keys(sealed, "a sealed key", keys, error);
  if (status != MR3D_OK) return status;
  if (!is_text(sealed, "kdf", "argon2id13") || !read_hex(sealed, "salt", salt, sizeof salt) || !read_hex(sealed, "nonce", nonce, sizeof nonce) ||
      !read_hex(sealed, "box", box, sizeof box) || !mr3d_json_is_count(cJSON_GetObjectItemCaseSensitive(sealed, "opslimit"), &ops) ||
      !mr3d_json_is_count(cJSON_GetObjectItemCaseSensitive(sealed, "memlimit"), &memory) || ops > 64 || memory > (int64_t)4 << 30)
    return mr3d_fail(error, MR3D_FORMAT, "a sealed key: expected kdf argon2id13, opslimit, memlimit, and salt, nonce and box in hexadecimal");
  if (crypto_pwhash(key, sizeof key, passphrase, strlen(passphrase), salt, (unsigned long long)ops, (size_t)memory, crypto_pwhash_ALG_ARGON2ID13) != 0)
    return mr3d_fail(error, MR3D_IO, "opening the key needs %lld MiB of memory, which the system does not give", (long long)memory >> 20);
  bool good = crypto_secretbox_open_easy(seed, box, sizeof box, nonce, key) == 0;
  sodium_memzero(key, sizeof key);
  return good ? MR3D_OK : mr3d_fail(error, MR3D_INVALID, "the passphrase does not open this key");
}

static mr3d_status write_new(const char *path, const char *text, mode_t mode, mr3d_error *error) {
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
  if (fd < 0) return mr3d_fail(error, MR3D_IO, "%s: %s%s", path, strerror(errno), errno == EEXIST ? "; a key is never overwritten" : "");
  size_t size = strlen(text);
  bool written = fchmod(fd, mode) == 0 && write(fd, text, size) == (ssize_t)size && fsync(fd) == 0;
  int reason = errno;
  close(fd);
  if (written) return MR3D_OK;
  unlink(path);
  return mr3d_fail(error, MR3D_IO, "%s: %s", path, strerror(reason));
}

mr3d_status mr3d_secret_key_save(const mr3d_secret_key *key, const char *passphrase, const char *path, mr3d_error *error) {
  char hex[65], *public = mr3d_public_key_print(&key->public), public_path[4096];
  if (snprintf(public_path, sizeof public_path, "%s.pub", path) >= (int)sizeof public_path) return mr3d_fail(error, MR3D_IO, "the path is too long");
  cJSON *root = cJSON_Parse(public), *value = cJSON_GetObjectItemCaseSensitive(root, "keyval"), *sealed = NULL;
  mr3d_status status = MR3D_OK;
  if (passphrase) {
    sealed = seal(key->bytes, passphrase);
    if (sealed) cJSON_AddItemToObject(value, "sealed", sealed);
    else status = mr3d_fail(error, MR3D_IO, "sealing a key needs %zu MiB of memory, which the system does not give", (size_t)crypto_pwhash_MEMLIMIT_MODERATE >> 20);
  } else cJSON_AddStringToObject(value, "private", sodium_bin2hex(hex, sizeof hex, key->bytes, 32));
  char *text = cJSON_PrintUnformatted(root);
  if (status == MR3D_OK) status = write_new(path, text, 0600, error);
  if (status == MR3D_OK && (status = write_new(public_path, public, 0644, error)) != MR3D_OK) unlink(path);
  sodium_memzero(text, strlen(text));
  sodium_memzero(hex, sizeof hex);
  cJSON_free(text);
  cJSON_Delete(root);
  free(public);
  return status;
}

static mr3d_status read_secret_file(const char *path, cJSON **root, mr3d_error *error) {
  struct stat file;
  void *bytes;
  size_t size;
  mr3d_status status = mr3d_map(path, &bytes, &size, error);
  if (status != MR3D_OK) return status;
  status = mr3d_json_parse(bytes, size, MR3D_JSON_ANY_NUMBER, root, error);
  mr3d_unmap(bytes, size);
  if (status != MR3D_OK) return mr3d_fail_in(error, "%s", path);
  const cJSON *value = cJSON_GetObjectItemCaseSensitive(*root, "keyval");
  if (!cJSON_GetObjectItemCaseSensitive(value, "private") && !cJSON_GetObjectItemCaseSensitive(value, "sealed"))
    status = mr3d_fail(error, MR3D_INVALID, "%s: %s", path, cJSON_GetObjectItemCaseSensitive(value, "public") ? "this is a public key, which signs nothing; the private one lies beside it, without .pub"
                                                                                                            : "this is no private key (mr3d keygen writes one)");
  else if (stat(path, &file) == 0 && (file.st_mode & 077))
    status = mr3d_fail(error, MR3D_INVALID, "%s has mode %04o: others may read this private key; chmod 600 %s", path, (unsigned)file.st_mode & 07777u, path);
  return status;
}

mr3d_status mr3d_secret_key_is_sealed(const char *path, bool *sealed, mr3d_error *error) {
  cJSON *root = NULL;
  mr3d_status status = read_secret_file(path, &root, error);
  if (status == MR3D_OK) *sealed = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(root, "keyval"), "sealed") != NULL;
  cJSON_Delete(root);
  return status;
}

mr3d_status mr3d_secret_key_load(const char *path, const char *passphrase, mr3d_secret_key *out, mr3d_error *error) {
  cJSON *root = NULL;
  mr3d_secret_key key = {0};
  mr3d_public_key made;
  unsigned char seed[32];
  mr3d_status status = start_sodium(error);
  if (status == MR3D_OK) status = read_secret_file(path, &root, error);
  if (status != MR3D_OK) {
    cJSON_Delete(root);
    return status;
  }
  const cJSON *value = cJSON_GetObjectItemCaseSensitive(root, "keyval"), *sealed = cJSON_GetObjectItemCaseSensitive(value, "sealed");
  status = read_public(root, public_keys, sealed ? sealed_value : plain_value, &key.public, error);
  if (status == MR3D_OK && sealed && !passphrase) status = mr3d_fail(error, MR3D_INVALID, "the key is sealed: a passphrase is needed");
  if (status == MR3D_OK && sealed) status = open_seal(sealed, passphrase, seed, error);
  else if (status == MR3D_OK && !read_hex(value, "private", seed, sizeof seed)) status = mr3d_fail(error, MR3D_FORMAT, "a key: private must be 64 hexadecimal digits");
  if (status == MR3D_OK) {
    crypto_sign_seed_keypair(made.bytes, key.bytes, seed);
    if (memcmp(made.bytes, key.public.bytes, sizeof made.bytes) != 0) status = mr3d_fail(error, MR3D_FORMAT, "its public and private parts do not belong together");
  }
  sodium_memzero(seed, sizeof seed);
  cJSON_Delete(root);
  if (status == MR3D_OK) *out = key;
  mr3d_secret_key_clear(&key);
  return status == MR3D_OK ? MR3D_OK : mr3d_fail_in(error, "%s", path);
}

/* ---- rotation ---- */

mr3d_status mr3d_rotation_make(const mr3d_secret_key *old, const mr3d_secret_key *fresh, const char *date, mr3d_envelope **out, mr3d_error *error) {
  char *from = mr3d_public_key_print(&old->public), *to = mr3d_public_key_print(&fresh->public), *text = NULL;
  size_t size = 0;
  FILE *stream = open_memstream(&text, &size);
  fprintf(stream, "{\"date\":\"%s\",\"from\":%.*s,\"to\":%.*s}\n", date, (int)strcspn(from, "\n"), from, (int)strcspn(to, "\n"), to);
  fclose(stream);
  mr3d_envelope *envelope = mr3d_envelope_new(MR3D_ROTATION_TYPE, text, size);
  mr3d_status status = mr3d_envelope_sign(envelope, old, error);
  if (status == MR3D_OK) status = mr3d_envelope_sign(envelope, fresh, error);
  free(from), free(to), free(text);
  if (status == MR3D_OK) *out = envelope;
  else mr3d_envelope_free(&envelope);
  return status;
}

mr3d_status mr3d_rotation_read(const mr3d_envelope *envelope, mr3d_public_key *from, mr3d_public_key *to, mr3d_error *error) {
  static const char *const keys[] = {"date", "from", "to", NULL};
  cJSON *root = NULL;
  if (strcmp(envelope->type, MR3D_ROTATION_TYPE) != 0) return mr3d_fail(error, MR3D_INVALID, "this is no rotation of keys, but %.80s", envelope->type);
  mr3d_status status = mr3d_json_parse(envelope->payload, envelope->size, MR3D_JSON_ANY_NUMBER, &root, error);
  if (status != MR3D_OK) return status;
  const cJSON *date = cJSON_GetObjectItemCaseSensitive(root, "date");
  status = mr3d_text_keys(root, "a rotation", keys, error);
  if (status == MR3D_OK && (!cJSON_IsString(date) || !mr3d_text_is_date(date->valuestring, false))) status = mr3d_fail(error, MR3D_FORMAT, "a rotation: date must be as 2026-11-29");
  if (status == MR3D_OK) status = read_public(cJSON_GetObjectItemCaseSensitive(root, "from"), public_keys, public_value, from, error);
  if (status == MR3D_OK) status = read_public(cJSON_GetObjectItemCaseSensitive(root, "to"), public_keys, public_value, to, error);
  if (status == MR3D_OK) status = mr3d_envelope_check(envelope, from, error);
  if (status == MR3D_OK) status = mr3d_envelope_check(envelope, to, error);
  cJSON_Delete(root);
  return status;
}
