// Package faults has terms in comments only:
//
// A token is to be had
// for its life.
package faults

const _ = "dead" // moody
