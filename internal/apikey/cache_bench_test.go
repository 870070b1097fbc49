package apikey_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"helloapi/internal/apikey"
)

// BenchmarkCacheFindWarm is what each request pays for its key: no query, no
// lock that all share, no allocation.
func BenchmarkCacheFindWarm(b *testing.B) {
	const many = 1000
	s := newSource()
	var keys, nobodys []apikey.Hash
	for i := range many {
		value := fmt.Sprint("value ", i)
		s.put(value, &apikey.Key{ID: value, Enabled: true})
		keys = append(keys, hash(value))
		nobodys = append(nobodys, hash(fmt.Sprint("nobody's ", i)))
	}
	c, err := apikey.NewCache(s, time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	provenForGood(<-s.watched)

	for _, bb := range []struct {
		name   string
		hashes []apikey.Hash
		want   error
	}{
		{"one key", keys[:1], nil},
		{"1000 keys", keys, nil},
		{"1000 unknown values", nobodys, apikey.ErrUnknown},
	} {
		b.Run(bb.name, func(b *testing.B) {
			for _, h := range bb.hashes {
				c.Find(b.Context(), h)
			}
			before := s.queries()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if _, err := c.Find(b.Context(), bb.hashes[i%len(bb.hashes)]); !errors.Is(err, bb.want) {
						b.Error(err)
						return
					}
				}
			})
			if n := s.queries() - before; n != 0 {
				b.Errorf("%d queries", n)
			}
		})
	}
}
