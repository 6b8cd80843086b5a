/**
 * Checkpoints on disk: one safetensors file, Hugging Face's shards with their index, or the folder that holds either.
 *
 * All is mapped and only headers are read: opening takes time and memory for the number of tensors, not for their size.
 */
#ifndef MR3D_CHECKPOINT_H
#define MR3D_CHECKPOINT_H

#include <sys/stat.h>

#include "mr3d/tensor.h"

typedef struct mr3d_checkpoint_file {
  char *path;
  struct stat identity;
  mr3d_bundle *tensors; /**< NULL: the index itself */
} mr3d_checkpoint_file;

/** Zero-initialise. The first file is the one that the path leads to: the safetensors file or the index. */
typedef struct mr3d_checkpoint {
  int n_files;
  mr3d_checkpoint_file *files;
  mr3d_bundle *tensors; /**< of all files; their data may be unaligned, and was not looked at */
} mr3d_checkpoint;

/**
 * Opens what `path` names: a folder as save_pretrained writes it (exactly one of model.safetensors and model.safetensors.index.json), an
 * index (NAME.json), else a safetensors file.
 *
 * An index is taken at its word: {"weight_map": {tensor: file}} where each tensor is in its file and in no other, each tensor of a file is
 * listed, and files lie beside the index. Errors name the file and the tensor, and say what was expected.
 * Ownership: mr3d_checkpoint_free.
 */
mr3d_status mr3d_checkpoint_open(const char *path, mr3d_checkpoint *, mr3d_error *);
void mr3d_checkpoint_free(mr3d_checkpoint *);

/** Whether `path` still leads to one form, and each of its files has the device, number, size and times that it had when it was opened. */
bool mr3d_checkpoint_is_current(const mr3d_checkpoint *, const char *path);
/** The path of the file that holds the tensor of that name. Requires: one does. */
const char *mr3d_checkpoint_file_of(const mr3d_checkpoint *, const char *tensor);

#endif
