package apidoc

import (
	"bytes"
	_ "embed"
	"fmt"
	"io"
	"strings"
	"text/template"

	"vault-plugin-secrets-tokenbroker/provider/oauth2"
)

//go:embed presets.md.tmpl
var presetsLayout string

// WritePresets writes presets to w as a Markdown table, in the given order.
func WritePresets(w io.Writer, presets []oauth2.Preset) error {
	functions := template.FuncMap{"text": text, "join": strings.Join, "inc": func(i int) int { return i + 1 }}
	return template.Must(template.New("presets.md").Funcs(functions).Parse(presetsLayout)).Execute(w, presets)
}

// Replace replaces the generated part of a page: the text between the lines that begin with
// "<!-- name:" and "<!-- end of name". It returns an error if a line is missing.
func Replace(page []byte, name string, part []byte) ([]byte, error) {
	begin := bytes.Index(page, []byte("\n<!-- "+name+":"))
	end := bytes.Index(page, []byte("\n<!-- end of "+name))
	if begin < 0 || end < begin {
		return nil, fmt.Errorf("the page has no section for %s", name)
	}
	first := begin + 1 + bytes.IndexByte(page[begin+1:], '\n') + 1
	return bytes.Join([][]byte{page[:first], part, page[end:]}, nil), nil
}
