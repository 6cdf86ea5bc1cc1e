#!/bin/sh
# Checks for the programs that a make target needs: `./deps.sh demo|test|bench|generate|image`.
# As root on a machine with apt it installs the Debian packages that are missing;
# elsewhere it says which they are.
set -eu

PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin

# One line for each program: the targets that need it, the program, its package.
needs() {
	cat <<-'EOF'
		demo,test,bench ip iproute2
		demo,test,bench tc iproute2
		demo,test,bench iptables iptables
		demo,test,bench nft nftables
		test ethtool ethtool
		test sysctl procps
		test tcpdump tcpdump
		test bpftool bpftool
		test,image dpkg-deb dpkg
		test,image apt-get apt
		test gcc gcc
		generate,test clang-19 clang-19
		generate,test llvm-strip-19 llvm-19
		generate,test clang-format-19 clang-format-19
	EOF
}

target=${1:?"usage: ./deps.sh demo|test|bench|generate|image"}

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
	*,"$target",*) command -v "$program" >/dev/null || echo "$package" ;;
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
apt-get -qq update || echo "apt-get update did not succeed; trying with the lists at hand" >&2
# shellcheck disable=SC2086 # a list of packages
DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing >/dev/null
