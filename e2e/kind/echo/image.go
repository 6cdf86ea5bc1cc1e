package echo

import (
	"errors"
	"fmt"
	"os"

	"github.com/weftnet/weft/deploy/image"
)

// Image is the name of the image that [WriteImage] writes.
const Image = "weft.local/echo:v1"

// WriteImage writes the archive of an image that has nothing but this program, and serves.
func WriteImage(path string) (err error) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("read this program: %w", err)
	}
	if err := (image.Tree{"echo": {Content: self}}).Closure(nil); err != nil {
		return fmt.Errorf("this program is not static: %w (build it with CGO_ENABLED=0)", err)
	}
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write the image of the test program: %w", err)
	}
	_, err = image.Image{
		Name:   Image,
		Config: image.Config{Entrypoint: []string{"/echo", Serve}},
		Layers: []image.Tree{{"echo": {Mode: 0o755, Content: self}}},
	}.Write(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the image of the test program: %w", err)
	}
	return nil
}
