#!/bin/sh
# Checks for the programs that a make target needs: `./deps.sh demo|test|browser|bench|generate|image|e2e`.
# As root on a machine with apt it installs the Debian packages that are missing;
# elsewhere it says which they are.
set -eu

PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin

# One line for each program, or file: the targets that need it, the program, its package.
needs() {
	cat <<-'EOF'
		demo,test,browser,bench,e2e ip iproute2
		demo,test,browser,bench tc iproute2
		demo,test,browser,bench,e2e iptables iptables
		demo,test,bench nft nftables
		test,bench ipset ipset
		test ethtool ethtool
		test sysctl procps
		test tcpdump tcpdump
		test,browser chromium-headless-shell chromium-headless-shell
		test bpftool bpftool
		test,image dpkg-deb dpkg
		test,image apt-get apt
		test,e2e gcc gcc
		generate,test clang-19 clang-19
		generate,test llvm-strip-19 llvm-19
		generate,test clang-format-19 clang-format-19
		e2e dockerd docker.io
		e2e script bsdutils
		e2e debootstrap debootstrap
		e2e /usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring
		e2e pkg-config pkg-config
		e2e /usr/include/seccomp.h libseccomp-dev
		e2e /usr/include/stdlib.h libc6-dev
	EOF
}

target=${1-}
case $target in
demo | test | browser | bench | generate | image | e2e) ;;
*)
	echo "usage: ./deps.sh demo|test|browser|bench|generate|image|e2e" >&2
	exit 2
	;;
esac

if [ "$target" != generate ] && [ "$target" != image ] && [ "$(id -u)" != 0 ]; then
	echo "make $target makes network namespaces and loads BPF programs: run it as root (sudo make $target)" >&2
	exit 1
fi
if ! command -v go >/dev/null; then
	echo "Go is not installed (neither in PATH nor in /usr/local/go): see https://go.dev/dl/, version 1.26 or later" >&2
	exit 1
fi

missing=$(needs | while read -r targets program package; do
	case ,$targets, in
	*,"$target",*) command -v "$program" >/dev/null || [ -e "/${program#/}" ] || echo "$package" ;;
	esac
done | sort -u | tr '\n' ' ')
case $target in
test | image) # the image's packages are asked of apt, which must know them
	if [ -z "$missing" ] && ! apt-cache show iptables >/dev/null 2>&1; then
		if [ "$(id -u)" != 0 ]; then
			echo "apt knows no packages yet: run apt-get update as root" >&2
			exit 1
		fi
		apt-get -qq update
	fi
	;;
esac
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	echo "make $target needs these Debian packages: $missing" >&2
	exit 1
fi
echo "installing: $missing"
# A package's service must not start by being installed: what we run, we start ourselves.
policy=/usr/sbin/policy-rc.d
if [ -e $policy ] && [ ! -e $policy.weft ]; then mv $policy $policy.weft; fi
trap 'rm -f $policy; if [ -e $policy.weft ]; then mv $policy.weft $policy; fi' EXIT
trap 'exit 1' HUP INT TERM
printf '#!/bin/sh\nexit 101\n' >$policy
chmod +x $policy
apt-get -qq update || echo "apt-get update did not succeed; trying with the lists at hand" >&2
# shellcheck disable=SC2086 # a list of packages
DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing >/dev/null
