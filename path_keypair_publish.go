package tokenbroker

import (
	"maps"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
	"vault-plugin-secrets-tokenbroker/internal/broker"
	"vault-plugin-secrets-tokenbroker/internal/credential"
	"vault-plugin-secrets-tokenbroker/internal/schedule"
)

// publicationFields returns the fields that publish and rotate a key pair.
func publicationFields() map[string]*framework.FieldSchema {
	fields := schedule.FieldSchemas("the key pair")
	maps.Copy(fields, map[string]*framework.FieldSchema{
		"publish": {
			Type:         framework.TypeBool,
			Description:  "Publish the public keys at jwks/<name>, without authentication. Default: false.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Publish"},
		},
		"issuer": {
			Type:         framework.TypeString,
			Description:  "URL of jwks/<name> as vendors reach it (https://vault.example.com/v1/kensho/jwks/prod). It is the issuer in the OpenID discovery document below it. Requires publish. Default: no discovery document.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Issuer"},
		},
		"publish_ahead": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long a schedule publishes the next key before it signs, at least 10s and shorter than rotation_period. Vendors may cache the keys for a quarter of it, at most an hour. Default: 24h.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Publish ahead"},
		},
	})
	return fields
}

// publicationDataFields returns the fields of publicationData.
func publicationDataFields() map[string]*framework.FieldSchema {
	fields := map[string]*framework.FieldSchema{}
	for name, schema := range publicationFields() {
		fields[name] = described(schema, "The value in effect; empty or 0 if there is none.")
	}
	maps.Copy(fields, map[string]*framework.FieldSchema{
		"jwks_path":              {Type: framework.TypeString, Description: "Path of the published keys, below the mount. Absent if they are not published."},
		"pending_published_time": {Type: framework.TypeTime, Description: "Since when the pending pair is published. Absent if it is not, or if there is none."},
		"retired_keys":           {Type: framework.TypeMap, Description: "Key IDs of former active pairs that are still published, with the time until which they are. Absent if there are none."},
		"last_vault_rotation":    {Type: framework.TypeTime, Description: "When a pending pair last became the active one. Absent if none has."},
		"next_vault_rotation":    {Type: framework.TypeTime, Description: "When the next rotation is due. It begins later if the next key was not published for publish_ahead by then, if 16 former keys are still published, or if the vendor does not accept it. Absent if there is no schedule."},
		"rotation_failures":      {Type: framework.TypeInt, Description: "How many attempts by the schedule have failed in a row. Absent if there is no schedule."},
		"rotation_error":         {Type: framework.TypeString, Description: "Why the last attempt failed. Absent if it did not."},
		"next_attempt":           {Type: framework.TypeTime, Description: "When the next attempt may begin. Absent if the last one did not fail."},
	})
	return fields
}

// publicationRequest returns what a write says about the publication of a key pair.
func publicationRequest(d *framework.FieldData) credential.PublicationRequest {
	return credential.PublicationRequest{
		Publish:          given[bool](d, "publish"),
		Issuer:           given[string](d, "issuer"),
		RotationSchedule: given[string](d, schedule.ScheduleField),
		RotationPeriod:   givenDuration(d, schedule.PeriodField),
		RotationWindow:   givenDuration(d, schedule.WindowField),
		PublishAhead:     givenDuration(d, "publish_ahead"),
	}
}

// given returns the value of a field of a request; nil if it is not given.
func given[T any](d *framework.FieldData, field string) *T {
	value, isGiven := d.GetOk(field)
	if !isGiven {
		return nil
	}
	return new(value.(T))
}

func givenDuration(d *framework.FieldData, field string) *time.Duration {
	seconds := given[int](d, field)
	if seconds == nil {
		return nil
	}
	return new(time.Duration(*seconds) * time.Second)
}

// publicationData returns the response data of a key pair's publication.
func publicationData(name string, k *credential.Keypair) map[string]any {
	p := &k.Publication
	seconds := func(d time.Duration) int64 { return int64(d.Seconds()) }
	data := map[string]any{
		"publish":              p.Publish,
		"issuer":               p.Issuer,
		"publish_ahead":        seconds(p.Ahead()),
		schedule.PeriodField:   seconds(p.Schedule.Period),
		schedule.ScheduleField: p.Schedule.Cron,
		schedule.WindowField:   seconds(p.Schedule.Window),
	}
	if p.Publish {
		data["jwks_path"] = apipath.JWKS(name)
	}
	if next := p.NextRotation(time.Now()); !next.IsZero() {
		data["next_vault_rotation"], data["rotation_failures"] = broker.FormatTime(next), p.Failures
	}
	if p.LastError != "" {
		data["rotation_error"], data["next_attempt"] = p.LastError, broker.FormatTime(p.NextAttempt)
	}
	if !p.LastRotation.IsZero() {
		data["last_vault_rotation"] = broker.FormatTime(p.LastRotation)
	}
	if k.Pending != nil && !k.Pending.PublishedTime.IsZero() {
		data["pending_published_time"] = broker.FormatTime(k.Pending.PublishedTime)
	}
	if len(p.Retired) > 0 {
		retired := map[string]any{}
		for _, r := range p.Retired {
			retired[r.KeyID] = broker.FormatTime(r.Until())
		}
		data["retired_keys"] = retired
	}
	return data
}
