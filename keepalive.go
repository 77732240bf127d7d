package tokenbroker

import (
	"fmt"
	"strings"
	"time"

	"vault-plugin-secrets-tokenbroker/provider"
)

const (
	defaultKeepalive = 24 * time.Hour

	// sweepInterval is how late the background work may be: Vault has it done once in so
	// long.
	sweepInterval = time.Minute
)

// keepaliveInterval is how often to exchange a credential that expires when it has been
// unused for idle (zero: it does not): as often as the operator says, or else once a day,
// or twice in that time if that is more often.
func keepaliveInterval(given *provider.Seconds, idle time.Duration) (time.Duration, error) {
	interval := defaultKeepalive
	if idle > 0 {
		interval = min(interval, idle/2)
	}
	if given != nil {
		interval = given.Duration()
	}
	longest := idle - sweepInterval
	switch {
	case idle == 0 || interval == 0 || interval <= longest:
		return interval, nil
	case given == nil:
		return 0, provider.Errorf(provider.Invalid, "idle_expiry: must be at least %s, as the engine looks once a minute; or turn keepalive off with keepalive_interval=0", inUnits(2*sweepInterval))
	}
	return 0, provider.Errorf(provider.Invalid, "keepalive_interval: must be at most %s, as an unused credential of this kind expires after %s and the engine looks once a minute; 0 turns it off",
		inUnits(max(longest, 0)), inUnits(idle))
}

// inUnits is a duration as an operator writes it: in days where it is whole days, else in
// hours, minutes and seconds.
func inUnits(d time.Duration) string {
	if day := 24 * time.Hour; d > 0 && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
