/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes short TCP connections, and serves them.
 *
 *   connections serve PORT
 *   connections load ADDRESS PORT SECONDS AT_ONCE [RATE]
 *
 * A connection is: connect, send a request of 64 bytes, read the answer of 128, see the server
 * close, close. Load keeps AT_ONCE of them under way, or opens RATE a second if that is given, and
 * prints one line of JSON. Whoever does not get through within three seconds has timed out: a
 * lost SYN is sent again after one second, so that much is forgiven, but shows in the latencies.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define REQUEST 64
#define ANSWER 128
#define TIMEOUT_US 3000000
#define MOST_AT_ONCE 8192
#define MOST_SAMPLES (1 << 24)
#define ERRNOS 134

struct connection {
	int fd; /* -1: free */
	int sent;
	int got;
	uint64_t began;
};

struct load {
	struct sockaddr_in to;
	int epoll;
	int under_way;
	struct connection all[MOST_AT_ONCE];
	int free[MOST_AT_ONCE];
	uint64_t opened, answered, timeouts, cut_short;
	uint64_t errors[ERRNOS];
	uint32_t *samples; /* microseconds */
};

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void die(const char *what)
{
	fprintf(stderr, "connections: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* The server: a connection's state is how much of its request has come, kept by descriptor. */

static void serve(int port)
{
	static uint8_t got[1 << 20];
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct epoll_event events[256], event = { .events = EPOLLIN };
	int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	int epoll = epoll_create1(0);
	char buffer[ANSWER] = { 0 };

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&at, sizeof(at)) || listen(listener, 65535))
		die("bind");
	event.data.fd = listener;
	epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
	puts("ready");
	fflush(stdout);
	for (;;) {
		int ready = epoll_wait(epoll, events, 256, -1);

		for (int i = 0; i < ready; i++) {
			int fd = events[i].data.fd, size;

			if (fd == listener) {
				while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
					if (fd >= (int)sizeof(got)) {
						close(fd);
						continue;
					}
					got[fd] = 0;
					event.data.fd = fd;
					epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
				}
				continue;
			}
			size = read(fd, buffer, REQUEST);
			if (size < 0 && errno == EAGAIN)
				continue;
			if (size > 0 && (got[fd] += size) < REQUEST)
				continue;
			if (size > 0) /* whether it arrives is the client's to say */
				send(fd, buffer, ANSWER, MSG_NOSIGNAL);
			close(fd);
		}
	}
}

/* The load. */

static void end(struct load *l, struct connection *c)
{
	close(c->fd);
	c->fd = -1;
	l->free[MOST_AT_ONCE - l->under_way--] = c - l->all;
}

static void fail(struct load *l, struct connection *c, int code)
{
	l->errors[code > 0 && code < ERRNOS ? code : 0]++;
	end(l, c);
}

static void open_one(struct load *l)
{
	struct connection *c = &l->all[l->free[MOST_AT_ONCE - ++l->under_way]];
	struct epoll_event event = { .events = EPOLLOUT, .data.ptr = c };

	memset(c, 0, sizeof(*c));
	l->opened++;
	c->began = now_us();
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (c->fd < 0)
		die("socket");
	if (connect(c->fd, (struct sockaddr *)&l->to, sizeof(l->to)) && errno != EINPROGRESS) {
		fail(l, c, errno);
		return;
	}
	epoll_ctl(l->epoll, EPOLL_CTL_ADD, c->fd, &event);
}

static void done(struct load *l, struct connection *c)
{
	if (c->got != ANSWER) {
		l->cut_short++;
	} else {
		if (l->answered < MOST_SAMPLES)
			l->samples[l->answered] = now_us() - c->began;
		l->answered++;
	}
	end(l, c);
}

static void go_on(struct load *l, struct connection *c)
{
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = c };
	char buffer[ANSWER + 1] = { 0 };
	socklen_t length = sizeof(int);
	int code = 0, size;

	if (!c->sent) {
		getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &code, &length);
		if (code || send(c->fd, buffer, REQUEST, MSG_NOSIGNAL) != REQUEST) {
			fail(l, c, code ? code : errno);
			return;
		}
		c->sent = 1;
		epoll_ctl(l->epoll, EPOLL_CTL_MOD, c->fd, &event);
		return;
	}
	while ((size = read(c->fd, buffer, sizeof(buffer))) > 0)
		c->got += size;
	if (!size)
		done(l, c);
	else if (errno != EAGAIN)
		fail(l, c, errno);
}

static void time_out(struct load *l)
{
	uint64_t now = now_us(); /* later than any of them began */

	for (int i = 0; i < MOST_AT_ONCE && l->under_way; i++) {
		struct connection *c = &l->all[i];

		if (c->fd >= 0 && now - c->began > TIMEOUT_US) {
			l->timeouts++;
			end(l, c);
		}
	}
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void report(struct load *l, uint64_t took)
{
	uint64_t n = l->answered < MOST_SAMPLES ? l->answered : MOST_SAMPLES;
	const double shares[] = { 0.5, 0.9, 0.99, 0.999 };
	const char *between = "";

	qsort(l->samples, n, sizeof(*l->samples), by_value);
	printf("{\"seconds\": %.3f, \"opened\": %lu, \"answered\": %lu, \"timeouts\": %lu, "
	       "\"cut_short\": %lu, \"errors\": {",
	       took / 1e6, l->opened, l->answered, l->timeouts, l->cut_short);
	for (int code = 0; code < ERRNOS; code++) {
		if (!l->errors[code])
			continue;
		printf("%s\"%s\": %lu", between, code ? strerrorname_np(code) : "other",
		       l->errors[code]);
		between = ", ";
	}
	printf("}, \"latency_us\": [");
	for (int i = 0; i < 4; i++)
		printf("%u, ", n ? l->samples[(uint64_t)(shares[i] * (n - 1))] : 0);
	printf("%u]}\n", n ? l->samples[n - 1] : 0);
}

static void load(struct load *l, double seconds, int at_once, double rate)
{
	uint64_t began = now_us(), ends = began + seconds * 1e6, checked = began, now;
	struct epoll_event events[256];

	for (now = began; now < ends || l->under_way; now = now_us()) {
		uint64_t due = rate ? (now - began) / 1e6 * rate + 1 : UINT64_MAX;
		int ready, room = rate ? MOST_AT_ONCE : at_once;

		for (int burst = 0;
		     burst < 64 && now < ends && l->under_way < room && l->opened < due; burst++)
			open_one(l);
		ready = epoll_wait(l->epoll, events, 256, rate || l->under_way < room ? 1 : 100);
		for (int i = 0; i < ready; i++)
			go_on(l, events[i].data.ptr);
		if (now - checked > 100000) {
			time_out(l);
			checked = now;
		}
	}
	report(l, now < ends ? now - began : ends - began);
}

int main(int argc, char **argv)
{
	static struct load l = { .to.sin_family = AF_INET };

	if (argc == 3 && !strcmp(argv[1], "serve"))
		serve(atoi(argv[2]));
	if (argc < 6 || strcmp(argv[1], "load") || !inet_aton(argv[2], &l.to.sin_addr) ||
	    atoi(argv[5]) < 1 || atoi(argv[5]) > MOST_AT_ONCE) {
		fputs("connections serve PORT | load ADDRESS PORT SECONDS AT_ONCE [RATE]\n",
		      stderr);
		return 2;
	}
	l.to.sin_port = htons(atoi(argv[3]));
	l.epoll = epoll_create1(0);
	l.samples = malloc(MOST_SAMPLES * sizeof(*l.samples));
	for (int i = 0; i < MOST_AT_ONCE; i++) {
		l.all[i].fd = -1;
		l.free[i] = i;
	}
	load(&l, atof(argv[4]), atoi(argv[5]), argc > 6 ? atof(argv[6]) : 0);
	return 0;
}
