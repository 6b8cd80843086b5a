#include "isolation.h"

#include <cjson/cJSON.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../protocol.h"
#include "../sanitized.h"
#include "mr3d/status.h"

#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

#define GIB ((uint64_t)1 << 30)
#define LARGEST_FILE GIB
#define MOST_THREADS 4096
#define MOST_PROCESSES 16384
#define PROCESSOR_HOURS 24
#define FIRST_TO_GO "/proc/self/oom_score_adj", "1000" /* when the machine's memory ends, this process goes first */

void mr3d_protection(mr3d_protections *protections, bool active, const char *format, ...) {
  char *list = active ? protections->active : protections->missing;
  size_t n = strlen(list);
  va_list arguments;
  if (n) n += (size_t)snprintf(list + n, sizeof protections->active - n, "; ");
  va_start(arguments, format);
  if (n < sizeof protections->active) vsnprintf(list + n, sizeof protections->active - n, format, arguments);
  va_end(arguments);
}

/** One that either holds, or is missing for a reason: `reason` is 0 or an errno. */
static void tell(mr3d_protections *protections, const char *name, int reason) {
  if (reason) mr3d_protection(protections, false, "%s: %s", name, strerror(reason));
  else mr3d_protection(protections, true, "%s", name);
}

static int write_to(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  int reason = write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : errno;
  close(fd);
  return reason;
}

/* ---- namespaces ---- */

/** The same user and group as outside, and no other. */
static int map_ids(unsigned user, unsigned group) {
  char text[64];
  write_to("/proc/self/setgroups", "deny"); /* a kernel without it needs none */
  snprintf(text, sizeof text, "%u %u 1", group, group);
  int reason = write_to("/proc/self/gid_map", text);
  snprintf(text, sizeof text, "%u %u 1", user, user);
  return reason ? reason : write_to("/proc/self/uid_map", text);
}

static bool unshared(mr3d_protections *protections, const char *name, int flag) {
  int reason = unshare(flag) == 0 ? 0 : errno;
  tell(protections, name, reason);
  return reason == 0;
}

static int set_read_only(const char *path, unsigned flags) {
  struct {
    uint64_t set, clear, propagation, user_namespace;
  } attributes = {.set = 1 /* MOUNT_ATTR_RDONLY */};
  return syscall(SYS_mount_setattr, AT_FDCWD, path, flags, &attributes, sizeof attributes) == 0 ? 0 : errno;
}

static int read_only(const char *path) {
  return set_read_only(path, 0x8000U /* AT_RECURSIVE */);
}

/** Binds a folder or a file to itself: what is mounted cannot be renamed or removed in here. Whatever is not there is fine. */
static int pin(const char *path) { return mount(path, path, NULL, MS_BIND | MS_REC, NULL) == 0 || errno == ENOENT ? 0 : errno; }

/** Can be read, but not be written, replaced or moved, nor can any folder above it. `pinned`: what was pinned before. */
static int keep(const char *path, cJSON *pinned) {
  char *real = realpath(path, NULL);
  int reason = 0;
  if (!real) return errno == ENOENT ? 0 : errno;
  for (char *end = real; *end && reason == 0;) {
    end += strcspn(end + 1, "/") + 1;
    const char rest = *end;
    *end = 0;
    if (real[1] && !cJSON_HasObjectItem(pinned, real)) {
      reason = pin(real);
      cJSON_AddTrueToObject(pinned, real);
    }
    *end = rest;
  }
  if (reason == 0 && real[1]) reason = read_only(real);
  free(real);
  return reason;
}

/** What the suite and its programs are made of, and the control groups, in which a process can be frozen. */
static int keep_all(const mr3d_confinement *wanted) {
  static const char *const system[] = {"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/sys", "/sys/fs/cgroup"};
  cJSON *pinned = cJSON_CreateObject();
  int reason = 0;
  for (size_t i = 0; i < sizeof system / sizeof *system && reason == 0; i++) reason = keep(system[i], pinned);
  for (int i = 0; i < wanted->n_kept && reason == 0; i++) reason = keep(wanted->kept[i], pinned);
  cJSON_Delete(pinned);
  return reason;
}

/** The path of this process's controlling terminal; false where it has none, or a pseudo terminal. */
static bool controlling_terminal(char *path, size_t size) {
  char text[1024] = "", link[64], target[256];
  FILE *stat = fopen("/proc/self/stat", "r");
  const size_t n = stat ? fread(text, 1, sizeof text - 1, stat) : 0;
  if (stat) fclose(stat);
  text[n] = 0;
  int number = 0;
  const char *behind_name = strrchr(text, ')');
  if (!behind_name || sscanf(behind_name, ") %*c %*d %*d %*d %d", &number) != 1 || number == 0) return false;
  snprintf(link, sizeof link, "/sys/dev/char/%u:%u", major((dev_t)number), minor((dev_t)number));
  const ssize_t length = readlink(link, target, sizeof target - 1);
  if (length <= 0) return false;
  target[length] = 0;
  snprintf(path, size, "/dev/%s", strrchr(target, '/') + 1);
  return access(path, F_OK) == 0;
}

/** Pseudo terminals of its own, and none in place of the one in front of which the suite may sit: output on that could be stopped. */
static int hide_terminals(void) {
  char path[300];
  if (access("/dev/pts", F_OK) == 0 && mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620") != 0) return errno;
  return controlling_terminal(path, sizeof path) && mount("/dev/null", path, NULL, MS_BIND, NULL) != 0 ? errno : 0;
}

/** Further user namespaces would bring back the rights to mount. */
static int forbid_users(void) { return write_to("/proc/sys/user/max_user_namespaces", "0"); }

/** Nothing in place of each: whoever opens it reads an empty file. */
static int hide_files(const mr3d_hiding *hiding) {
  int reason = 0;
  for (int i = 0; i < hiding->n_files && reason == 0; i++) reason = mount("/dev/null", hiding->files[i], NULL, MS_BIND, NULL) == 0 || errno == ENOENT ? 0 : errno;
  return reason;
}

/* ---- files that are forgotten ---- */

/** Folders in which nothing is remembered anyway: they are read-only, or no files of a disk. */
static bool has_no_memory(const char *name) {
  static const char *const names[] = {".", "..", "proc", "sys", "dev", "usr", "bin", "sbin", "lib", "lib32", "lib64", "etc"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(names[i], name) == 0) return true;
  return false;
}

/** Over a folder, a layer in memory that takes what is written. */
static int cover(const char *layers, int number, const char *folder) {
  char upper[300], work[300], options[4096];
  snprintf(upper, sizeof upper, "%s/%d", layers, 2 * number);
  snprintf(work, sizeof work, "%s/%d", layers, 2 * number + 1);
  if (mkdir(upper, 0755) != 0 || mkdir(work, 0755) != 0) return errno;
  struct stat like;
  if (stat(folder, &like) == 0 && chmod(upper, like.st_mode & 07777) != 0) return errno;
  snprintf(options, sizeof options, "userxattr,lowerdir=%s,upperdir=%s,workdir=%s", folder, upper, work);
  return mount("mr3d", folder, "overlay", MS_NOSUID | MS_NODEV, options) == 0 ? 0 : errno;
}

/** The folders of the root, and shared memory; one that holds other mounts, which a layer would not show, or sockets of other programs (/run) cannot have it and is listed. */
static int cover_folders(const char *layers, cJSON *others) {
  int covered = cover(layers, 0, "/dev/shm") == 0, n = 1;
  DIR *root = opendir("/");
  for (struct dirent *entry; root && (entry = readdir(root)); n++) {
    char path[300];
    struct stat folder;
    snprintf(path, sizeof path, "/%s", entry->d_name);
    if (has_no_memory(entry->d_name) || lstat(path, &folder) != 0 || !S_ISDIR(folder.st_mode)) continue;
    if (strcmp(path, "/run") != 0 && cover(layers, n, path) == 0) covered++;
    else cJSON_AddItemToArray(others, cJSON_CreateString(path));
  }
  if (root) closedir(root);
  return covered;
}

/** What is written is taken by layers in memory; where there can be none it cannot be written. What the suite goes on writing (kept) is seen as it is. */
static int forget_files(const mr3d_confinement *wanted) {
  static const char layers[] = "/sys"; /* until they lie over the folders, which is all that is to be seen of them */
  cJSON *others = cJSON_CreateArray(), *other;
  int *fds = mr3d_allocate(wanted->n_kept + 1, sizeof *fds), reason = mount("mr3d", layers, "tmpfs", MS_NOSUID | MS_NODEV, NULL) == 0 ? 0 : errno;
  for (int i = 0; i < wanted->n_kept; i++) fds[i] = open(wanted->kept[i], O_PATH | O_CLOEXEC);
  if (reason == 0) {
    if (cover_folders(layers, others) == 0) reason = EOPNOTSUPP; /* this kernel gives no such layers to users: nothing is changed */
    if (umount2(layers, MNT_DETACH) != 0 && reason == 0) reason = errno;
  }
  cJSON_ArrayForEach (other, others)
    if (reason == 0 && (reason = pin(other->valuestring)) == 0) reason = read_only(other->valuestring);
  for (int i = 0; i < wanted->n_kept; i++) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fds[i]);
    if (fds[i] >= 0 && reason == 0 && mount(link, wanted->kept[i], NULL, MS_BIND | MS_REC, NULL) != 0) reason = errno;
    if (fds[i] >= 0) close(fds[i]);
  }
  if (reason == 0) reason = set_read_only("/", 0); /* alone, not what is mounted below */
  cJSON_Delete(others);
  free(fds);
  return reason;
}

/** In a mount namespace of its own: all files read-only, or, for a command of the user's (wanted not NULL), those that the suite needs. Whether the golden set is hidden. */
static bool change_mounts(const mr3d_hiding *hiding, bool own_processes, const mr3d_confinement *wanted, mr3d_protections *protections) {
  char *folder = getcwd(NULL, 0);
  int reason = mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 ? 0 : errno;
  bool is_private = reason == 0, is_hidden = false;
  if (wanted && wanted->forgets) tell(protections, MR3D_FORGETS, is_private ? forget_files(wanted) : reason); /* first: such a layer shows what mounts hide */
  if (hiding->folder && is_private) {
    reason = mount("mr3d", hiding->folder, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,mode=0555") == 0 ? 0 : errno;
    is_hidden = reason == 0;
    tell(protections, "golden set hidden by a mount", reason);
  }
  if (is_private && own_processes)
    tell(protections, "sees its own processes only", mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == 0 ? 0 : errno);
  if (hiding->n_files > 0) tell(protections, "keys hidden by a mount", is_private ? hide_files(hiding) : reason);
  if (wanted) {
    tell(protections, "the suite's files, the system's and control groups read-only", is_private ? keep_all(wanted) : reason);
    tell(protections, "no terminals but its own", is_private ? hide_terminals() : reason);
    tell(protections, "no further user namespaces", forbid_users());
  } else tell(protections, MR3D_READS_ONLY "mounts", is_private ? read_only("/") : reason);
  /* The working folder again, by its name: it may be the one that a mount hides. */
  if (folder && chdir(folder) != 0 && chdir("/") != 0) is_hidden = false;
  free(folder);
  return is_hidden;
}

/* ---- the processes in front of the one that loads the plug-in ---- */

static void let_go_of_pipes(void) {
  int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd = 0; fd < 3; fd++)
    if (nothing < 0 || dup2(nothing, fd) < 0) close(fd);
}

/** Ends as a process with this wait status did. */
static _Noreturn void end_like(int status) {
  if (WIFEXITED(status)) _exit(WEXITSTATUS(status));
  int number = WIFSIGNALED(status) ? WTERMSIG(status) : SIGKILL;
  sigset_t all;
  sigfillset(&all);
  setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
  signal(number, SIG_DFL);
  sigprocmask(SIG_UNBLOCK, &all, NULL);
  kill(getpid(), number);
  _exit(128 + number);
}

/** The first process of a namespace: when it ends, the kernel ends all others in there, whatever they did to stay. */
static _Noreturn void be_first(pid_t host, int report) {
  let_go_of_pipes();
  for (;;) {
    int status = 0;
    pid_t ended = wait(&status);
    if (ended < 0 && errno != EINTR) _exit(1);
    if (ended != host) continue;
    ssize_t told = write(report, &status, sizeof status);
    _exit(told == (ssize_t)sizeof status ? 0 : 1);
  }
}

/** Forks twice: returns in the second child, which is not the first process there, so that signals end it. Returns 0 or an errno. */
static int enter_processes(bool own_mounts, const mr3d_hiding *hiding, const mr3d_confinement *wanted, bool *is_hidden, mr3d_protections *protections) {
  int report[2];
  if (pipe2(report, O_CLOEXEC) != 0) return errno;
  pid_t first = fork();
  if (first < 0) return errno;
  if (first > 0) {
    int status = SIGKILL; /* of a first process that could not tell */
    close(report[1]);
    let_go_of_pipes();
    if (read(report[0], &status, sizeof status) != (ssize_t)sizeof status) status = SIGKILL;
    while (waitpid(first, NULL, 0) < 0 && errno == EINTR) {}
    end_like(status);
  }
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  close(report[0]);
  if (poll(&(struct pollfd){.fd = report[1]}, 1, 0) > 0) _exit(1); /* the one in front had ended before this one asked to end with it */
  if (own_mounts) *is_hidden = change_mounts(hiding, true, wanted, protections);
  pid_t host = fork();
  if (host < 0) _exit(1);
  if (host > 0) be_first(host, report[1]);
  close(report[1]);
  return 0;
}

/** Whether the golden set is hidden. A command of the user's (wanted not NULL) keeps the caller's network and most files. */
static bool enter_namespaces(const mr3d_hiding *hiding, const mr3d_confinement *wanted, mr3d_protections *protections) {
  const unsigned user = getuid(), group = getgid();
  bool is_hidden = false;
  int reason = unshare(CLONE_NEWUSER) == 0 ? map_ids(user, group) : errno;
  tell(protections, "user namespace", reason);
  if (!wanted) unshared(protections, "network namespace without a network", CLONE_NEWNET);
  unshared(protections, "ipc namespace", CLONE_NEWIPC);
  bool mounts = unshare(CLONE_NEWNS) == 0;
  if (!mounts) tell(protections, "mount namespace", errno);
  prctl(PR_SET_PDEATHSIG, SIGKILL); /* a change of rights may have reset it */
  if (unshared(protections, "process namespace", CLONE_NEWPID)) {
    reason = enter_processes(mounts, hiding, wanted, &is_hidden, protections);
    if (reason == 0) return is_hidden;
    fprintf(stderr, "mr3d-host: could not enter a process namespace: %s\n", strerror(reason));
    exit(1); /* this process may no longer start any other */
  }
  return mounts && change_mounts(hiding, false, wanted, protections);
}

/* ---- limits ---- */

static uint64_t machine_memory(void) {
  uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
  unsigned long long bound;
  FILE *file = fopen("/sys/fs/cgroup/memory.max", "r"); /* a container's; "max" where there is none */
  if (file && fscanf(file, "%llu", &bound) == 1 && bound < memory) memory = bound;
  if (file) fclose(file);
  return memory;
}

/** Lowers a limit, never raises one. Returns 0 or an errno. */
static int limit(int resource, uint64_t most) {
  struct rlimit bound;
  if (getrlimit(resource, &bound) != 0) return errno;
  if (bound.rlim_max > most) bound.rlim_max = most;
  if (bound.rlim_cur > bound.rlim_max) bound.rlim_cur = bound.rlim_max;
  return setrlimit(resource, &bound) == 0 ? 0 : errno;
}

/** At most so many in this user namespace, and half of what there may be outside, where the suite needs some. It does not bind root's. */
static void limit_threads(uint64_t most, mr3d_protections *protections) {
  char name[64];
  struct rlimit bound;
  unsigned long long group;
  FILE *file = fopen("/sys/fs/cgroup/pids.max", "r"); /* a container's; "max" where there is none */
  if (file && fscanf(file, "%llu", &group) == 1 && group / 2 < most) most = group / 2;
  if (file) fclose(file);
  if (getrlimit(RLIMIT_NPROC, &bound) == 0 && bound.rlim_cur / 2 < most) most = bound.rlim_cur / 2;
  snprintf(name, sizeof name, "at most %llu threads", (unsigned long long)most);
  tell(protections, name, limit(RLIMIT_NPROC, most));
}

static void set_limits(uint64_t memory, bool own_user, mr3d_protections *protections) {
  char name[64];
  if (MR3D_SANITIZED) {
    mr3d_protection(protections, false, "memory limit: the host is built with a sanitizer");
  } else {
    if (memory == 0) memory = machine_memory() / 4 * 3;
    int reason = limit(RLIMIT_DATA, memory);
    if (reason == 0) reason = limit(RLIMIT_AS, 4 * memory); /* shared memory and reservations, which RLIMIT_DATA does not count */
    snprintf(name, sizeof name, "memory at most %.3g GiB", (double)memory / (double)GIB);
    tell(protections, name, reason);
  }
  snprintf(name, sizeof name, "processor time at most %d h", PROCESSOR_HOURS);
  tell(protections, name, limit(RLIMIT_CPU, PROCESSOR_HOURS * 3600));
  snprintf(name, sizeof name, "files at most %d GiB", (int)(LARGEST_FILE / GIB));
  tell(protections, name, limit(RLIMIT_FSIZE, LARGEST_FILE));
  tell(protections, "no core files", limit(RLIMIT_CORE, 0));
  if (own_user) limit_threads(MOST_THREADS, protections); /* elsewhere it counts all that the user runs */
}

static int drop_capabilities(void) {
  for (int c = 0; c < 64; c++) prctl(PR_CAPBSET_DROP, c, 0, 0, 0);
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct none[2] = {{0}};
  return syscall(SYS_capset, &header, none) == 0 ? 0 : errno;
}

void mr3d_isolate(const mr3d_isolation *wanted, mr3d_protections *protections) {
  *protections = (mr3d_protections){0};
  write_to(FIRST_TO_GO);
  bool is_hidden = enter_namespaces(&wanted->hiding, NULL, protections);
  set_limits(wanted->memory, strstr(protections->active, "user namespace") != NULL, protections);
  tell(protections, "no capabilities", drop_capabilities());

  int reason = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? 0 : errno, abi = 0;
  const char *hide = is_hidden ? NULL : wanted->hiding.folder;
  if (reason == 0) reason = mr3d_landlock(hide, &abi);
  tell(protections, MR3D_READS_ONLY "Landlock", reason);
  if (hide) tell(protections, "golden set hidden by Landlock", reason);
  if (MR3D_SANITIZED) mr3d_protection(protections, false, "system calls filtered (seccomp): the host is built with a sanitizer");
  else tell(protections, "system calls filtered (seccomp): no processes, no sockets, no tracing", mr3d_filter_calls());
}

void mr3d_confine(const mr3d_confinement *wanted, mr3d_protections *protections) {
  *protections = (mr3d_protections){0};
  write_to(FIRST_TO_GO);
  enter_namespaces(&wanted->hiding, wanted, protections);
  if (strstr(protections->active, "user namespace")) {
    limit_threads(MOST_PROCESSES, protections);
    tell(protections, "no capabilities", drop_capabilities()); /* root would undo it with them */
  }
  setsid(); /* where it has no process namespace it is a group's leader already, and keeps its terminal */
}
