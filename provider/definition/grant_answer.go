package definition

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"vault-plugin-secrets-tokenbroker/provider/exchange"
)

func (c *compiler) answer() error {
	a, place := c.g.given.Answer, "/answer"
	if a == nil {
		a, place = c.d.Answer, ofDefinition+"/answer"
	}
	reading, err := readingOf(a, place)
	if err != nil {
		return err
	}
	if err := c.granted(reading, place); err != nil {
		return err
	}
	c.g.reading = *reading
	if a != nil {
		c.g.errorAt = a.Error
	}
	if err := checkPointer(c.g.errorAt); err != nil {
		return at(place+"/error", err)
	}
	if c.g.given.RefreshAnswer == nil {
		return nil
	}
	if c.g.given.Refresh == nil {
		return errors.New("/refresh_answer: there is no refresh")
	}
	c.g.refreshReading, err = readingOf(c.g.given.RefreshAnswer, "/refresh_answer")
	return err
}

// granted checks where an answer states what was granted.
func (c *compiler) granted(reading *exchange.Reading, place string) error {
	for _, name := range sortedKeys(reading.Granted) {
		f, own := c.d.fields[name], reading.Granted[name]
		place := place + "/granted" + pointerTo(name)
		switch {
		case f == nil || !f.Narrows:
			return fmt.Errorf("%s: unknown field, or one that does not narrow", place)
		case own.At == "":
			return fmt.Errorf("%s/at: give the JSON Pointer of a member", place)
		}
		for member, pointer := range map[string]string{"/at": own.At, "/member": own.Member} {
			if err := checkPointer(pointer); err != nil {
				return at(place+member, err)
			}
		}
	}
	return nil
}

// readingOf returns how an answer is read.
func readingOf(a *Answer, place string) (*exchange.Reading, error) {
	reading := exchange.OAuth
	if a != nil {
		for _, own := range []struct {
			given *string
			to    *string
		}{{a.Token, &reading.Token}, {a.Expiry, &reading.Expiry}, {a.RefreshToken, &reading.RefreshToken}, {a.Scope, &reading.Scope}, {a.TokenType, &reading.TokenType}} {
			if own.given != nil {
				*own.to = *own.given
			}
		}
		reading.ExpiryUnit = cmp.Or(a.ExpiryUnit, reading.ExpiryUnit)
		reading.Header, reading.Cookie, reading.IsText, reading.OK, reading.Extra = a.TokenHeader, a.TokenCookie, a.Text, a.OK, a.Extra
		reading.Granted = a.Granted
	}
	places := 0
	for _, isGiven := range []bool{reading.Token != "" && reading.Token != exchange.OAuth.Token, reading.Header != "", reading.Cookie != "", reading.IsText} {
		if isGiven {
			places++
		}
	}
	if places > 1 || places == 0 && reading.Token == "" {
		return nil, fmt.Errorf("%s: give one of token, token_header, token_cookie and text", place)
	}
	pointers := map[string]string{
		"token": reading.Token, "expiry": reading.Expiry, "refresh_token": reading.RefreshToken, "scope": reading.Scope,
		"token_type": reading.TokenType, "ok": reading.OK,
	}
	for _, name := range sortedKeys(reading.Extra) {
		if !isFieldName.MatchString(name) || slices.Contains(answerFields, name) {
			return nil, fmt.Errorf("%s/extra/%s: readers have a field of that name, or it is none; choose another", place, name)
		}
		pointers["extra/"+name] = reading.Extra[name]
	}
	for _, member := range sortedKeys(pointers) {
		if member != "refresh_token" && isRefreshToken(pointers[member]) {
			return nil, fmt.Errorf("%s/%s: a refresh token is not for readers", place, member)
		}
	}
	for _, member := range sortedKeys(pointers) {
		if err := checkPointer(pointers[member]); err != nil {
			return nil, at(place+"/"+member, err)
		}
	}
	return &reading, nil
}

// isRefreshToken reports whether a member of an answer has the name of a refresh token.
func isRefreshToken(pointer string) bool {
	name := pointer[strings.LastIndexByte(pointer, '/')+1:]
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(name)) == "refreshtoken"
}

// answerFields are the fields that every reader of a token gets.
var answerFields = []string{
	"access_token", "token_type", "expire_time", "scope", "vendor", "config", "ttl", "rotation_period",
	"last_vault_rotation", "http_header", "other_http_headers", "query_parameter",
}
