# Stand-ins for the third-party images, for a machine that reaches no registry. Each target follows the image that it
# stands for in what helloapi's files rely on: names, ports, environment, volumes, users and entrypoint. What differs:
#
#   target       stands for                    has
#   postgres     postgres:18                   PostgreSQL 15
#   redis        redis:8                       Redis 7.0
#   haproxy      haproxy:3.2                   HAProxy 2.6
#   prometheus   prom/prometheus:v3.5.0        Prometheus 2.42
#
# deploy/e2e/standins builds them, and those that are made without Debian's packages.
FROM helloapi-e2e/debian AS debian
# There is no init to start services by.
RUN printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
ENV DEBIAN_FRONTEND=noninteractive

FROM debian AS postgres
RUN groupadd -r -g 999 postgres && useradd -r -g postgres -u 999 -d /var/lib/postgresql -s /bin/bash postgres \
    && mkdir /etc/postgresql-common && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf \
    && apt-get -qq update && apt-get -qq install -y --no-install-recommends postgresql-15 > /dev/null \
    && rm -rf /var/lib/postgresql/* \
    && install -d -o postgres -g postgres -m 1777 /var/lib/postgresql && install -d -o postgres -g postgres -m 3777 /var/run/postgresql \
    && mkdir /docker-entrypoint-initdb.d \
    && sed -i "s/^#listen_addresses = .*/listen_addresses = '*'/" /usr/share/postgresql/15/postgresql.conf.sample
ENV PATH=$PATH:/usr/lib/postgresql/15/bin LANG=C.UTF-8 PG_MAJOR=18 PGDATA=/var/lib/postgresql/18/docker
COPY postgres-entrypoint /usr/local/bin/docker-entrypoint.sh
VOLUME /var/lib/postgresql
STOPSIGNAL SIGINT
EXPOSE 5432
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]

FROM debian AS redis
RUN groupadd -r -g 999 redis && useradd -r -g redis -u 999 redis \
    && apt-get -qq update && apt-get -qq install -y --no-install-recommends redis-server > /dev/null \
    && install -d -o redis -g redis /data
COPY redis-entrypoint /usr/local/bin/docker-entrypoint.sh
WORKDIR /data
VOLUME /data
EXPOSE 6379
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["redis-server"]

FROM debian AS haproxy
RUN apt-get -qq update && apt-get -qq install -y --no-install-recommends haproxy > /dev/null \
    && groupmod -g 99 haproxy && usermod -u 99 haproxy \
    && install -d -o haproxy -g haproxy /var/lib/haproxy && install -d /usr/local/etc/haproxy
COPY haproxy-entrypoint /usr/local/bin/docker-entrypoint.sh
USER haproxy
WORKDIR /var/lib/haproxy
STOPSIGNAL SIGUSR1
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["haproxy", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]

FROM debian AS prometheus
RUN apt-get -qq update && apt-get -qq install -y --no-install-recommends prometheus > /dev/null \
    && install -d -o nobody -g nogroup /prometheus
USER nobody
WORKDIR /prometheus
VOLUME /prometheus
EXPOSE 9090
ENTRYPOINT ["/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
