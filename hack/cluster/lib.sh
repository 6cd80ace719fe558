# shellcheck shell=bash disable=SC2034 # what is set here is used by those that source it
# Sourced by the scripts of this folder: the cluster's paths and names, and how its processes are started and stopped.
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
here=$hack/cluster
dir=$ETCD_WARDEN_CLUSTER
bin=$dir/bin
run=$dir/run
netns=${ETCD_WARDEN_NETNS:-etcd-warden}
inside=(nsenter --net="/run/netns/$netns") # not `ip netns exec`, which hides /sys/fs/cgroup
etcd_version=3.6.16                        # of the cluster's own etcd
kubernetes=${KUBERNETES:-1.37.2}
kubernetes_versions() { basename --multiple "$here"/go/kubernetes-* | sed 's/^kubernetes-//' | sort --version-sort | paste --serial --delimiters=' '; }
etcd_versions() { basename --multiple "$here"/go/etcd-* | sed 's/^etcd-//'; }

# began PID: when it started, in ticks since the boot. This shows whether a recorded id now belongs to another process.
began() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }
# alive NAME: whether the process recorded under this name still runs; prints its id.
alive() {
	local pid since
	read -r pid since 2>/dev/null <"$run/pid/$1" && [ "$(began "$pid")" = "$since" ] && echo "$pid"
}

# start NAME CMD...: starts a process of the cluster that outlives this script and keeps none of its files open. The process
# records its own id before it executes CMD, so its id is always recorded while it runs.
start() {
	local name=$1
	shift
	(
		pid=$BASHPID
		echo "$pid $(began "$pid")" >"$run/pid/$name"
		exec setsid nohup "${inside[@]}" "$@" 9>&-
	) >"$run/log/$name.log" 2>&1 </dev/null &
}

# stop NAME...: kills these processes at once, because their state is not kept.
stop() {
	local name pid pids=()
	for name in "$@"; do ! pid=$(alive "$name") || pids+=("$pid"); done
	[ ${#pids[@]} -eq 0 ] || kill -9 "${pids[@]}" 2>/dev/null || true
	for name in "$@"; do
		while alive "$name" >/dev/null; do sleep 0.02; done
		rm -f "$run/pid/$name" # a cluster is complete if all recorded processes run
	done
}

# The containers and their shims are not children of recorded processes. A container's first process is identified by its
# state folder and by a cgroup named after the container; with it all processes in its PID namespace end. A shim is
# identified by the address of this containerd among its arguments.
stop_containers() {
	local file pid id d
	for file in "$run"/containerd-state/io.containerd.runtime.v2.task/k8s.io/*/init.pid; do
		[ -s "$file" ] || continue
		pid=$(<"$file")
		id=$(basename "$(dirname "$file")")
		! grep -qs "$id" "/proc/$pid/cgroup" || kill -9 "$pid" 2>/dev/null || true
	done
	for d in /proc/[0-9]*; do
		case "$(tr '\0' ' ' 2>/dev/null <"$d/cmdline")" in
		*containerd-shim*" -address $run/containerd.sock "*) kill -9 "${d#/proc/}" 2>/dev/null || true ;;
		esac
	done
	for file in "$run"/containerd-state/io.containerd.runtime.v2.task/k8s.io/*/address; do
		[ ! -s "$file" ] || rm -f "$(sed 's,^unix://,,' "$file")"
	done
}

# Stops the cluster in any state, and removes everything that it left on the machine. Built programs are kept.
tear_down() {
	local i mount group
	[ ! -d "$run/pid" ] || (cd "$run/pid" && stop ./*)
	stop_containers
	for ((i = 0; i < 3; i++)); do # mounts on mounts
		while read -r mount; do umount --lazy "$mount" 2>/dev/null || true; done < <(awk -v r="$run/" 'index($2, r) == 1 {print $2}' /proc/mounts | sort --reverse)
	done
	for group in $(cgroup_folders); do
		[ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
	done
	[ ! -e "/run/netns/$netns" ] || ip netns delete "$netns"
	# Two folders that cannot be changed by settings of the kubelet.
	rm -f /var/lib/kubelet/device-plugins/kubelet.sock
	find /var/log/containers -lname "$run/*" -delete 2>/dev/null || true
	rm -rf "$run" "$dir/kubeconfig"
}

# The cgroup that holds every pod of this cluster, in each hierarchy of the machine (one, with version 2).
cgroup_folders() { awk -v n="$netns" '$3 == "cgroup" || $3 == "cgroup2" {print $2 "/" n}' /proc/mounts; }
