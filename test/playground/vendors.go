package main

import (
	"net/http"
	"time"

	"vault-plugin-secrets-tokenbroker/internal/testing/vendorsim"
	"vault-plugin-secrets-tokenbroker/test/internal/customer"
	"vault-plugin-secrets-tokenbroker/test/internal/vendorproxy"
)

// openAccounts returns a customer with accounts at simulated vendors, whose files are in dir, and
// switches that take the vendors down. Kensho's tokens of a refresh token expire 50 minutes from now
// and then every hour, and not on the full hour, which may be near.
func openAccounts(dir string, now time.Time) (*customer.Customer, *vendorproxy.Switches, error) {
	sim, switches := vendorsim.New(), vendorproxy.NewSwitches()
	switches.Consent = sim.Consent
	expiry := now.Add(50 * time.Minute).Truncate(time.Second)
	sim.Behave(vendorsim.Conduct{
		HourOffset: expiry.Sub(expiry.Truncate(time.Hour)),
		Fault: func(r *http.Request) http.HandlerFunc {
			if !sim.Simulates(r.Host) {
				return vendorsim.Answer(http.StatusNotFound, `{"error":"the playground does not simulate this vendor"}`)
			}
			return switches.Fault(r)
		},
	})
	account, err := customer.Open(sim, dir)
	return account, switches, err
}
