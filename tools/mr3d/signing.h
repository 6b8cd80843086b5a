/** What the commands that sign and check have in common. */
#ifndef MR3D_SIGNING_H
#define MR3D_SIGNING_H

#include "envelope.h"

#define MR3D_MAX_KEYS 16

/** Loads a private key; a sealed one is opened by the first line of `passphrase_file` or, where that is NULL, what is typed at the terminal. */
mr3d_status mr3d_open_key(const char *path, const char *passphrase_file, mr3d_secret_key *, mr3d_error *);
/** A passphrase: the first line of a file, or typed (twice, where `twice`). `passphrase` holds `size` bytes. */
mr3d_status mr3d_get_passphrase(const char *file, bool twice, char *passphrase, size_t size, mr3d_error *);

/** Loads the public keys of a list joined by commas; none where `list` is NULL. Errors also: a list that names none. */
mr3d_status mr3d_load_keys(const char *list, int *n, mr3d_public_key keys[MR3D_MAX_KEYS], mr3d_error *);
/** Whether what is signed can be written there: before anything else is done, since that may take hours. Errors: a file is there, none can be made. */
mr3d_status mr3d_new_file(const char *path, mr3d_error *);

/** MR3D_OK where one of the keys has signed; else what is wrong with the last one's signature. */
mr3d_status mr3d_signed_by_one(const mr3d_envelope *, int n, const mr3d_public_key keys[], mr3d_error *);

#endif
