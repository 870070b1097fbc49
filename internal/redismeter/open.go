package redismeter

import (
	"errors"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// connect returns a client of the Redis at url. The error does not hold the url.
func connect(url string) (redis.UniversalClient, error) {
	opts, err := redis.ParseURL(url)
	if err != nil {
		// The error of net/url quotes the whole, with the password.
		return nil, errors.New("REDIS_URL must be like redis://:password@host:6379/0, or rediss:// for TLS")
	}
	// The defaults of go-redis suit a cache. Here a request waits: give up soon,
	// honour deadlines, and never send a command twice.
	opts.ContextTimeoutEnabled = true
	opts.MaxRetries = -1
	opts.DialerRetries = 1
	opts.DialTimeout = tripTimeout
	opts.ReadTimeout = tripTimeout
	opts.WriteTimeout = tripTimeout
	opts.PoolTimeout = tripTimeout
	opts.MinIdleConns = 1
	opts.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return redis.NewClient(opts), nil
}
