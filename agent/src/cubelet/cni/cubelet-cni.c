/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cubelet-cni: the CNI plugin, for hosts where nothing is installed. It relays one call to the
 * node's agent: what the runtime says (the environment's CNI_* and standard input) goes over the
 * agent's Unix socket as it is, and what the agent answers is printed (CNI specification 1.1).
 *
 * The agent decodes and validates (cubelet/cni/relay.py). Known here is only what must be done
 * without an agent: VERSION's answer, and the error when none is there. DEL is no error then, or
 * pods could not end while an agent is away or after it was removed: it is noted beside the socket
 * for the agent's return (cubelet/cni/deletions.py). plugin.py beside this file does the same where
 * there is no compiler.
 *
 *   request: {"method": "cni", "params": {"env": {NAME: VALUE, ...}, "stdin": TEXT}}
 *   reply:   {"result": {"status": EXIT STATUS, "output": WHAT TO PRINT, or null}}
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef DEFAULT_SOCKET
#define DEFAULT_SOCKET "/run/cubelet/agent.sock"
#endif

/* The folder of noted deletions has the name of the socket with this at its end. */
#define DELETIONS_SUFFIX ".deleted"
/* Of the configuration, and of the reply: a GC that names 250 attachments has about 30 kB. */
#define MAX_SIZE (1 << 20)
/* Longer than the agent waits for its datapath; container runtimes give a call minutes. */
#ifndef TIMEOUT_SECONDS
#define TIMEOUT_SECONDS 60
#endif

/* CNI's error codes as numbers in text; those from 100 on are cubelet's own (cni/errors.py). */
#define IO_FAILURE "5"
#define INVALID_CONFIG "7"
#define TRY_AGAIN_LATER "11"
#define NOT_AVAILABLE "50"
#define INTERNAL "100"

/* The versions of the specification, oldest first, as strings of JSON. */
static const char *const versions[] = { "\"0.3.0\"", "\"0.3.1\"", "\"0.4.0\"", "\"1.0.0\"",
					"\"1.1.0\"" };
#define NEWEST versions[4]

/* Text that grows; not ended by a zero byte. */
struct text {
	char *data;
	size_t size, room;
};

/* A part of a text: `to` is the first byte that is not in it. */
struct span {
	const char *from, *to;
};

static struct span span_of(const char *string)
{
	return (struct span){ string, string + strlen(string) };
}

static bool is_text(struct span span, const char *string)
{
	size_t size = strlen(string);

	return (size_t)(span.to - span.from) == size && !memcmp(span.from, string, size);
}

static bool is_name(struct span span, const char *string)
{
	size_t size = strlen(string);

	return (size_t)(span.to - span.from) == size && !strncasecmp(span.from, string, size);
}

static void put(struct text *text, const char *data, size_t size)
{
	if (text->room - text->size < size) {
		text->room = 2 * (text->size + size);
		text->data = realloc(text->data, text->room);
		if (!text->data)
			abort(); /* the runtime sees a plugin that failed without a word */
	}
	if (size)
		memcpy(text->data + text->size, data, size);
	text->size += size;
}

static void put_text(struct text *text, const char *string)
{
	put(text, string, strlen(string));
}

static void put_span(struct text *text, struct span span)
{
	put(text, span.from, span.to - span.from);
}

/* As a string of JSON. Bytes from 0x80 on are UTF-8 already, or the agent will say so. */
static void put_quoted(struct text *text, const char *data, size_t size)
{
	static const char hex[] = "0123456789abcdef";

	put(text, "\"", 1);
	for (size_t i = 0; i < size; i++) {
		unsigned char byte = data[i];
		char code[] = { '\\', 'u', '0', '0', hex[byte >> 4], hex[byte & 15] };

		if (byte < 0x20 || byte == '"' || byte == '\\')
			put(text, code, sizeof(code));
		else
			put(text, &data[i], 1);
	}
	put(text, "\"", 1);
}

static bool is_blank(char byte)
{
	return byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r';
}

static const char *skip_blank(const char *at, const char *end)
{
	while (at < end && is_blank(*at))
		at++;
	return at;
}

/* What follows the string whose opening quote is at `at`; NULL if the text ends in it. */
static const char *skip_string(const char *at, const char *end)
{
	for (at++; at < end; at++) {
		if (*at == '"')
			return at + 1;
		if (*at == '\\')
			at++;
	}
	return NULL;
}

/* Whether a value of JSON is one string, and nothing else. */
static bool is_string(struct span value)
{
	return value.from < value.to && *value.from == '"' &&
	       skip_string(value.from, value.to) == value.to;
}

/* What follows the value at `at`; NULL if the text ends in it. Brackets are counted, not paired. */
static const char *skip_value(const char *at, const char *end)
{
	int depth = 0;

	while (at < end) {
		if (*at == '"') {
			at = skip_string(at, end);
			if (!at)
				return NULL;
			continue;
		}
		if (*at == '{' || *at == '[')
			depth++;
		else if (depth == 0 && (*at == ',' || *at == '}' || *at == ']'))
			return at;
		else if (*at == '}' || *at == ']')
			depth--;
		at++;
	}
	return depth ? NULL : at;
}

/*
 * The member `key` (with its quotes) of the object that `json` holds, in upper or lower case; the
 * last one of several. So does Go, in which runtimes are written. Of what is no JSON the readable
 * beginning counts: the agent judges it.
 */
static bool find(struct span json, const char *key, struct span *value)
{
	const char *at = skip_blank(json.from, json.to), *name, *name_end;
	bool is_there = false;

	while (at < json.to && (*at == '{' || *at == ',')) {
		name = skip_blank(at + 1, json.to);
		if (name == json.to || *name != '"')
			break;
		name_end = skip_string(name, json.to);
		if (!name_end)
			break;
		at = skip_blank(name_end, json.to);
		if (at == json.to || *at != ':')
			break;
		struct span found = { .from = skip_blank(at + 1, json.to) };

		at = skip_value(found.from, json.to);
		if (!at)
			break;
		for (found.to = at; found.to > found.from && is_blank(found.to[-1]); found.to--)
			;
		if (is_name((struct span){ name, name_end }, key)) {
			*value = found;
			is_there = true;
		}
	}
	return is_there;
}

/* The version that a result has: the configuration's if it is one of ours, else the newest. */
static struct span version_of(struct span config)
{
	struct span version;

	if (find(config, "\"cniVersion\"", &version)) {
		for (size_t i = 0; i < sizeof(versions) / sizeof(versions[0]); i++)
			if (is_text(version, versions[i]))
				return version;
	}
	return span_of(NEWEST);
}

static int print(struct text *text)
{
	size_t done = 0;

	put_text(text, "\n");
	while (done < text->size) {
		ssize_t written = write(STDOUT_FILENO, text->data + done, text->size - done);

		if (written < 0)
			return EXIT_FAILURE;
		done += written;
	}
	return EXIT_SUCCESS;
}

/* Print an error result; `message` and `details` are strings of JSON. The exit status. */
static int fail(struct span config, const char *code, struct span message, struct span details)
{
	struct text error = { 0 };

	put_text(&error, "{\"cniVersion\": ");
	put_span(&error, version_of(config));
	put_text(&error, ", \"code\": ");
	put_text(&error, code);
	put_text(&error, ", \"msg\": ");
	put_span(&error, message);
	put_text(&error, ", \"details\": ");
	put_span(&error, details);
	put_text(&error, "}");
	print(&error);
	return EXIT_FAILURE;
}

static int print_versions(struct span config)
{
	struct text answer = { 0 };

	put_text(&answer, "{\"cniVersion\": ");
	put_span(&answer, version_of(config));
	put_text(&answer, ", \"supportedVersions\": [");
	for (size_t i = 0; i < sizeof(versions) / sizeof(versions[0]); i++) {
		put_text(&answer, i ? ", " : "");
		put_text(&answer, versions[i]);
	}
	put_text(&answer, "]}");
	return print(&answer);
}

/*
 * Add all that comes, up to the end of the first line if that is all there is to come, and at most
 * MAX_SIZE bytes; false, with errno, if it fails or more comes.
 */
static bool read_all(int from, struct text *text, bool only_line)
{
	char part[4096];
	ssize_t size;

	while ((size = read(from, part, sizeof(part))) > 0) {
		put(text, part, size);
		if (text->size > MAX_SIZE) {
			errno = EFBIG;
			return false;
		}
		/* An agent that refused the rest of the request resets the connection after it. */
		if (only_line && part[size - 1] == '\n')
			return true;
	}
	return size == 0;
}

static void write_request(struct text *request, struct span config)
{
	const char *separator = "";

	put_text(request, "{\"method\": \"cni\", \"params\": {\"env\": {");
	for (char **variable = environ; *variable; variable++) {
		const char *value = strchr(*variable, '=');

		if (strncmp(*variable, "CNI_", 4) || !value)
			continue;
		put_text(request, separator);
		put_quoted(request, *variable, value - *variable);
		put_text(request, ": ");
		put_quoted(request, value + 1, strlen(value + 1));
		separator = ", ";
	}
	put_text(request, "}, \"stdin\": ");
	put_quoted(request, config.from, config.to - config.from);
	put_text(request, "}}\n");
}

/* Send the request to the agent and read its reply, a line or nothing; false with errno. */
static bool ask(const struct sockaddr_un *agent, const struct text *request, struct text *reply)
{
	const struct timeval timeout = { .tv_sec = TIMEOUT_SECONDS };
	int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	size_t sent = 0;

	if (connection < 0 ||
	    setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) ||
	    setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) ||
	    connect(connection, (const struct sockaddr *)agent, sizeof(*agent)))
		return false;
	while (sent < request->size) {
		ssize_t size =
			send(connection, request->data + sent, request->size - sent, MSG_NOSIGNAL);
		if (size < 0)
			break; /* an agent that refuses says why before it closes */
		sent += size;
	}
	return read_all(connection, reply, true);
}

static bool is_container_id(const char *id)
{
	for (const char *at = id; at && *at; at++)
		if (!isalnum((unsigned char)*at) && (at == id || !strchr("_.-", *at)))
			return false;
	return id && *id;
}

/* Note for the agent's return what DEL deletes: an empty file CONTAINER:INTERFACE. */
static bool note_deletion(const char *path)
{
	const char *container = getenv("CNI_CONTAINERID"), *ifname = getenv("CNI_IFNAME");
	char folder[sizeof(((struct sockaddr_un *)0)->sun_path) + sizeof(DELETIONS_SUFFIX)];
	struct text name = { 0 };
	int at, file;

	if (!is_container_id(container) || !ifname || !*ifname || strchr(ifname, '/'))
		return false;
	snprintf(folder, sizeof(folder), "%s" DELETIONS_SUFFIX, path);
	if (mkdir(folder, 0700) && errno != EEXIST)
		return errno == ENOENT; /* no agent has run here since the node started */
	put_text(&name, container);
	put_text(&name, ":");
	put(&name, ifname, strlen(ifname) + 1);
	at = open(folder, O_DIRECTORY | O_CLOEXEC);
	file = openat(at, name.data, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	return file >= 0;
}

static int unreachable(struct span config, const char *path, int number)
{
	const char *command = getenv("CNI_COMMAND");
	bool is_status = command && !strcmp(command, "STATUS");
	bool is_del = command && !strcmp(command, "DEL");
	struct text message = { 0 }, details = { 0 }, quoted = { 0 };

	if (is_del && note_deletion(path))
		return EXIT_SUCCESS;
	put_text(&message, "no cubelet agent answers on ");
	put_text(&message, path);
	put_text(&details, number == EAGAIN ? "no answer in time"
			   : number         ? strerror(number)
					    : "it closed the connection without an answer");
	put_text(&details, "; start it with `cubelet agent`, or name its socket in the "
			   "network configuration if it listens elsewhere");
	put_quoted(&quoted, message.data, message.size);
	size_t size = quoted.size;

	put_quoted(&quoted, details.data, details.size);
	return fail(config, is_status ? NOT_AVAILABLE : TRY_AGAIN_LATER,
		    (struct span){ quoted.data, quoted.data + size },
		    (struct span){ quoted.data + size, quoted.data + quoted.size });
}

/* Print what the agent's reply says; the exit status. */
static int answer(struct span config, struct span reply)
{
	struct span result, status, output, error;
	struct span message = span_of("\"the agent's answer is none\""), details = span_of("\"\"");
	struct text text = { 0 };

	if (find(reply, "\"result\"", &result) && find(result, "\"status\"", &status) &&
	    find(result, "\"output\"", &output)) {
		put_span(&text, output);
		if (!is_text(output, "null") && print(&text))
			return EXIT_FAILURE;
		return is_text(status, "0") ? EXIT_SUCCESS : EXIT_FAILURE;
	}
	/* The agent's server speaks: it did not take the request, or is of another version. */
	if (find(reply, "\"error\"", &error)) {
		find(error, "\"message\"", &message);
		find(error, "\"details\"", &details);
	}
	return fail(config, INTERNAL, is_string(message) ? message : span_of("\"\""),
		    is_string(details) ? details : span_of("\"\""));
}

int main(void)
{
	struct sockaddr_un agent = { .sun_family = AF_UNIX, .sun_path = DEFAULT_SOCKET };
	struct text input = { 0 }, request = { 0 }, reply = { 0 };
	const char *command = getenv("CNI_COMMAND");
	struct span config, path;

	if (!read_all(STDIN_FILENO, &input, false))
		return fail(span_of(""), errno == EFBIG ? INVALID_CONFIG : IO_FAILURE,
			    span_of("\"cannot read the network configuration from stdin\""),
			    errno == EFBIG ? span_of("\"it is longer than 1 MiB\"")
					   : span_of("\"\""));
	config = (struct span){ input.data, input.data + input.size };
	if (command && !strcmp(command, "VERSION"))
		return print_versions(config);
	if (find(config, "\"socket\"", &path) && is_string(path) && !is_text(path, "\"\"")) {
		/* A path that needs escapes in JSON is no path for a socket. */
		size_t size = path.to - path.from - 2;

		if (size >= sizeof(agent.sun_path) || memchr(path.from + 1, '\\', size))
			return fail(config, INVALID_CONFIG, span_of("\"socket is not a path\""),
				    span_of("\"a path has no escapes, and at most 107 bytes\""));
		memset(agent.sun_path, 0, sizeof(agent.sun_path));
		memcpy(agent.sun_path, path.from + 1, size);
	}
	write_request(&request, config);
	if (!ask(&agent, &request, &reply))
		return unreachable(config, agent.sun_path, errno);
	if (!reply.size)
		return unreachable(config, agent.sun_path, 0);
	return answer(config, (struct span){ reply.data, reply.data + reply.size });
}
