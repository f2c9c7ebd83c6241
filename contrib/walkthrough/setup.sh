# A machine of its own for a run: sh setup.sh WORK CHECKOUT COMMAND…, in new namespaces but of users.
#
# Its root file system is a copy of this machine's that nobody else sees: an overlay whose upper half is in memory.
# What is mounted elsewhere goes along as it is; /proc and /sys are those of the new namespaces; what belongs to lxcd
# or LXC here stays here.
set -eu
cd /
work=$1
checkout=$2
shift 2
ip link set lo up
mkdir "$work/memory" "$work/root"
mount -t tmpfs -o mode=755 article "$work/memory"
mkdir "$work/memory/upper" "$work/memory/work"
mount -t overlay -o "lowerdir=/,upperdir=$work/memory/upper,workdir=$work/memory/work" article "$work/root"
new=$work/root

# Once each, those below others with them.
tops=
while read -r _ _ _ _ point _; do
  case "$point" in
    / | "$work"*) continue ;;
    /proc | /sys | /dev | /run | /tmp | /proc/* | /sys/* | /dev/* | /run/* | /tmp/*) continue ;;
  esac
  for top in $tops; do
    case "$point" in "$top" | "$top"/*) continue 2 ;; esac
  done
  tops="$tops $point"
done </proc/self/mountinfo
for top in $tops; do
  [ ! -d "$new$top" ] || mount --rbind "$top" "$new$top"
done

if [ ! -e "$new$checkout/lxcd" ]; then
  mkdir -p "$new$checkout"
  mount --rbind "$checkout" "$new$checkout"
fi

mount -t proc proc "$new/proc"
mount -t sysfs sysfs "$new/sys"
for name in fs/cgroup kernel/security fs/bpf; do
  ! mountpoint -q "/sys/$name" || mount --rbind "/sys/$name" "$new/sys/$name"
done
# Nodes of its own: whoever binds /dev into a container lets it write there. As many loop devices as anybody uses.
mount -t tmpfs -o mode=755 dev "$new/dev"
cp -a --one-file-system /dev/. "$new/dev/"
for number in $(seq 0 63); do
  [ -e "$new/dev/loop$number" ] || mknod -m 660 "$new/dev/loop$number" b 7 "$number"
done
mkdir -p "$new/dev/pts" "$new/dev/shm"
rm -f "$new/dev/log"
# Terminals of its own.
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts "$new/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$new/dev/shm"
# Where somebody has used it with nothing mounted there.
rm -rf "$new/run/sshd"
mount -t tmpfs -o mode=755 tmpfs "$new/run"
mkdir "$new/run/lock" "$new/run/sshd"
for name in lxc lxcd; do
  rm -rf "$new/var/lib/$name"
  mkdir -p "$new/var/lib/$name"
done
rm -rf "$new/usr/local/var/lib/lxc" "$new/etc/lxc" "$new/etc/lxcd" "$new/lxc"

mkdir -p "$new/tmp/article"
cd "$new"
pivot_root . .
umount -l .
cd /
hostname host
"$@"
