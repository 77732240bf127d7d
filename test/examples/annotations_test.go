package examples

import "strings"

const annotationPrefix = "vault.hashicorp.com/"

// The injector's annotations, from
// https://developer.hashicorp.com/vault/docs/platform/k8s/injector/annotations
// (vault-k8s 1.7.6, whose module was not available when this was written).
var (
	annotations = strings.Fields(`
		agent-auto-auth-exit-on-err agent-cache-enable agent-cache-exit-on-err
		agent-cache-listener-port agent-cache-use-auto-auth-token agent-configmap
		agent-copy-volume-mounts agent-disable-idle-connections agent-disable-keep-alives
		agent-enable-quit agent-extra-secret agent-image agent-init-first
		agent-init-json-patch agent-inject agent-inject-containers
		agent-inject-default-template agent-inject-status agent-inject-token
		agent-json-patch agent-limits-cpu agent-limits-ephemeral agent-limits-mem
		agent-pre-populate agent-pre-populate-only agent-request-namespace
		agent-requests-cpu agent-requests-ephemeral agent-requests-mem
		agent-revoke-grace agent-revoke-on-shutdown agent-run-as-group
		agent-run-as-same-user agent-run-as-user agent-service-account-token-volume-name
		agent-set-security-context agent-share-process-namespace auth-max-backoff
		auth-min-backoff auth-path auth-type ca-cert ca-key client-cert client-key
		client-max-retries client-timeout go-max-procs log-format log-level namespace
		preserve-secret-case proxy-address role secret-volume-path service
		template-config-exit-on-retry-failure template-lease-renewal-threshold
		template-max-connections-per-host template-static-secret-render-interval
		tls-secret tls-server-name tls-skip-verify`)

	// These annotations end in a name that the user chooses.
	namedAnnotations = strings.Fields(`
		agent-inject-command- agent-inject-file- agent-inject-perms-
		agent-inject-secret- agent-inject-template- agent-inject-template-file-
		agent-telemetry- agent-template-left-delim- agent-template-right-delim-
		auth-config- error-on-missing-key- secret-volume-path-`)
)
