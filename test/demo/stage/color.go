package stage

import "github.com/fatih/color"

var (
	heading = color.New(color.FgCyan, color.Bold)
	command = color.New(color.Bold)
)

// Heading returns a heading in its color. Like Command, it returns the text as it is if standard
// output is not a terminal, or if NO_COLOR is set.
func Heading(text string) string { return heading.Sprint(text) }

// Command returns a command, with a prompt, in its color.
func Command(text string) string { return command.Sprint("$ " + text) }
