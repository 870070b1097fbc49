module helloapi/internal/systemtest

go 1.26.0

replace helloapi => ../..
