package proc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/internal/testnet"
)

// The test program as a parent that is killed: it starts a child and says its number.
const parent = "WEFT_PROC_PARENT"

func TestMain(m *testing.M) {
	if os.Getenv(parent) == "" {
		os.Exit(m.Run())
	}
	cmd := Command(context.Background(), "sleep", "600")
	wait, err := Start(cmd)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(cmd.Process.Pid)
	fmt.Fprintln(os.Stderr, wait())
	os.Exit(1)
}

// gone waits until a process has ended; a zombie has.
func gone(t *testing.T, pid int) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	err := testnet.Wait(ctx, func() error {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(b), ") Z ") {
			return nil
		}
		return fmt.Errorf("process %d lives: %s", pid, b)
	})
	if err != nil {
		t.Error(err)
	}
}

func TestWhatIsStartedDiesWithItsKilledParent(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), parent+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // "killed", as it should
	gone(t, pid)
}

func TestCancelEndsAlsoGrandchildren(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := Command(ctx, "sh", "-c", "sleep 600 & echo $!; wait")
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout = in
	wait, err := Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	grandchild, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := wait(); err == nil {
		t.Error("a command that was ended returned no error")
	}
	gone(t, grandchild)
}

func TestErrorsTellWhatTheProgramSaid(t *testing.T) {
	err := Run(Command(t.Context(), "sh", "-c", "echo it is broken >&2; exit 3"))
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(err.Error(), "it is broken") {
		t.Errorf("Run = %v, want exit status 3 and what was said", err)
	}
	var log bytes.Buffer
	err = Logged(Command(t.Context(), "sh", "-c", "seq 1000; exit 1"), &log)
	if err == nil || !strings.Contains(err.Error(), "\n999\n1000") || strings.Contains(err.Error(), "\n900\n") {
		t.Errorf("Logged = %v, want the last lines alone", err)
	}
	if !strings.Contains(log.String(), "\n1\n2\n") {
		t.Errorf("the log lacks its beginning: %.100q", log.String())
	}
}

func TestWhatCannotBeStartedIsAnError(t *testing.T) {
	if _, err := Start(Command(t.Context(), "/does/not/exist")); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("Start = %v, want %v", err, syscall.ENOENT)
	}
}
