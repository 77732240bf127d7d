// Command cut makes a short recording of one of the demo, so that a visitor of the README sees it to
// the end. It reads an asciicast (version 2) from standard input and writes one to standard output.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"
)

func main() {
	length := flag.Duration("length", 17*time.Second, "`time` until the last frame")
	first := flag.String("first", "token_type", "`text` that the first frame ends with")
	flag.Parse()
	if err := cut(os.Stdin, os.Stdout, *first, *length); err != nil {
		fmt.Fprintln(os.Stderr, "cannot cut the recording:", err)
		os.Exit(1)
	}
}

// step is what begins a new frame: a heading or a command, which are bold.
var step = regexp.MustCompile(`\r\n\x1b\[(36;)?1m`)

// cut writes the output in frames of a step each. The first frame is all output up to the step with
// the text first. The time of a frame depends on how many lines it adds, and not on how long the
// demo took.
func cut(in io.Reader, out io.Writer, first string, length time.Duration) error {
	header, text, err := read(in)
	if err != nil {
		return err
	}
	at := strings.Index(text, first)
	if at < 0 {
		return fmt.Errorf("no %q in the recording", first)
	}
	var frames []string
	begin := 0
	for _, match := range step.FindAllStringIndex(text, -1) {
		if match[0] > at {
			frames = append(frames, text[begin:match[0]])
			begin = match[0]
		}
	}
	frames = append(frames, text[begin:])

	weights, sum := make([]float64, len(frames)-1), 0.0 // of all frames but the last
	for i := range weights {
		weights[i] = 2 + float64(min(strings.Count(frames[i], "\n"), 12))
		sum += weights[i]
	}
	if _, err := fmt.Fprintln(out, header); err != nil {
		return err
	}
	encoder := json.NewEncoder(out)
	passed := 0.0
	for i, frame := range frames {
		if err := encoder.Encode([]any{length.Seconds() * passed / max(sum, 1), "o", frame}); err != nil {
			return err
		}
		if i < len(weights) {
			passed += weights[i]
		}
	}
	return nil
}

// read returns the header of an asciicast, and its output.
func read(in io.Reader) (header, text string, err error) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	lines.Scan()
	header = lines.Text()
	var output strings.Builder
	for lines.Scan() {
		var event []any
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			return "", "", err
		}
		data, isText := "", false
		if len(event) == 3 && event[1] == "o" {
			data, isText = event[2].(string)
		}
		if !isText {
			return "", "", fmt.Errorf("not an output event: %s", lines.Text())
		}
		output.WriteString(data)
	}
	return header, output.String(), lines.Err()
}
