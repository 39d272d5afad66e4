# The server on CPUs; docs/serving.md, "In a container", has the commands.

# Debian 13: gcc 12 of Debian 12 compiles AMX kernels that crash (docs/kernels.md).
FROM python:3.13-slim-trixie AS build

# For processors with AVX2. An image that runs only where it is built may use all features: GGML_NATIVE=ON.
ARG CMAKE_ARGS="-DGGML_NATIVE=OFF"

# The version of the compiler is that of the base image's Debian.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

# Before the sources are copied, so that a change of them does not compile it again.
RUN python -m venv /opt/visionward \
    && CMAKE_ARGS="${CMAKE_ARGS}" /opt/visionward/bin/pip install --no-cache-dir llama-cpp-python==0.3.36

COPY . /source
RUN /opt/visionward/bin/pip install --no-cache-dir "/source[serve]"


FROM python:3.13-slim-trixie

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --home-dir /var/lib/visionward visionward

COPY --from=build /opt/visionward /opt/visionward

ENV PATH="/opt/visionward/bin:${PATH}" \
    PYTHONUNBUFFERED=1 \
    VISIONWARD_HOME=/var/lib/visionward \
    VISIONWARD_MODEL=/models

USER 10001
WORKDIR /var/lib/visionward
VOLUME ["/models"]
EXPOSE 8000

HEALTHCHECK --interval=30s --timeout=5s --start-period=2m \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]

ENTRYPOINT ["visionward"]
CMD ["serve", "--host", "0.0.0.0"]
